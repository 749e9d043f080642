/* $title
 *
 * Written by snn-rl $version. C99, freestanding: no library (but memcpy, memmove and
 * memset, which compilers call by themselves), no malloc, no global state.
 * Memory: SNN_MEMORY bytes per snn_agent, which the caller owns; SNN_CONSTANTS bytes of constants
 * in agent.c; about 1 KiB of stack.
 *
 * Compile with -ffp-contract=off (or -std=c99) and never with -ffast-math: a fused multiply-add
 * changes membranes. Compiled with -DSNN_SELF_TEST, $stem.c has a main() that replays a golden
 * trace of real play; it exits with 0 exactly if every bit of every Q-value is the same.
 */
#ifndef SNN_AGENT_H
#define SNN_AGENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SNN_PIXELS $pixels
#define SNN_INPUTS $inputs /* values of one frame: $frame */
#define SNN_HISTORY $history /* earlier frames that the network sees as well */
#define SNN_ACTIONS $actions
#define SNN_TIMESTEPS $timesteps /* per frame */
#define SNN_CARRY $carry /* 1: membranes survive from frame to frame; 0: every frame begins them anew */
#define SNN_NEURONS $neurons
#define SNN_MEMORY $memory
#define SNN_CONSTANTS $constants

/* Where the membranes of a layer begin, and how they lie. */
$layers

#if SNN_PIXELS
typedef uint8_t snn_value;
#else
typedef float snn_value;
#endif

/* Numbers spikes and rows of weights. */
typedef $index snn_index;

/* All that the agent remembers of an episode, which snn_reset begins. Copy it out of an snn_agent
 * to keep a moment, assign it back to return there. */
typedef struct {
    float membranes[SNN_NEURONS];
    snn_value history[SNN_HISTORY * SNN_INPUTS + !SNN_HISTORY]; /* as seen, oldest first */
} snn_state;

/* One agent: its state, and work space that no result depends on. It is a little faster where it
 * begins at a multiple of 64 bytes. */
typedef struct {
    int32_t accumulators[$accumulators];
    float floats[$floats];
    float sums[$sums];
    snn_index list[$list], before[$before], rows[$rows];
    snn_state state;
    snn_value input[(SNN_HISTORY + 1) * SNN_INPUTS];
    uint8_t seen[$seen];
    uint8_t spikes[$spikes];
} snn_agent;

/* Begins an episode. Call it once before anything else, too. */
void snn_reset(snn_agent *agent);

/* One decision.
 *
 * frame: $frame.
 * q: filled with the Q-values.
 * Returns the action with the largest; -1 if the frame holds a number that is not finite, then
 * nothing has changed. */
int snn_act(snn_agent *agent, const snn_value frame[SNN_INPUTS], float q[SNN_ACTIONS]);

#ifdef __cplusplus
}
#endif
#endif
