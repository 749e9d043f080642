/* $title: tables, then the runtime that runs them. See $stem.h.
 * Written by snn-rl $version. */
#include "$stem.h"

#include <float.h>
#include <stddef.h>

#ifdef __FAST_MATH__
#error "fast-math changes Q-values: compile without -ffast-math and -Ofast"
#endif
#if !defined(FLT_EVAL_METHOD) || (FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16)
#error "float is computed in another precision: compile for SSE, e.g. with -msse2 -mfpmath=sse"
#endif
#if FLT_RADIX != 2 || FLT_MANT_DIG != 24 || DBL_MANT_DIG != 53
#error "float and double are not IEEE 754's"
#endif

/* Multiply, then add: a fused operation would round once where the agent rounds twice. gcc does
 * not know the standard's pragma, and no macro tells what it will do: the self-test does. */
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off", "no-loop-unroll-and-jam") /* which keeps sums scalar */
#endif

/* What an operation does, and where a value lies. */
enum { PIXELS, DENSE, SCATTER, SCALE, ADD, LIF, READOUT };
enum { IN_PIXELS, IN_OBSERVED, IN_SPIKES, IN_FLOATS, IN_SUMS };
enum { COPIED = $copied }; /* spikes at a time */

/* Offsets and sizes. Values lie channels last, [y][x][channel]; a frame as it comes. */
typedef struct {
    int32_t kind;
    int32_t once; /* the same at every timestep of a frame */
    int32_t source, source_in, inputs;
    int32_t target, outputs;
    int32_t weights; /* of spikes [ky][kx][in channel][out channel], then a
                        row of zeros; of others, and in groups,
                        [in channel][ky][kx][out channel of the group] */
    int32_t bias; /* of a LIF: its thresholds */
    int32_t table; /* of spikes which inputs an output sees, else which outputs an input reaches */
    int32_t channels, kernel, row, per_group, out_channels;
    int32_t second, second_in; /* ADD: the other value. LIF: leaks. Of spikes: the weights' unit */
    int32_t membrane, accumulator;
} Operation;

$tables

typedef char snn_memory_is_as_stated[sizeof(snn_agent) == SNN_MEMORY ? 1 : -1];

/* Eight bytes as one number, the first of them lowest; compilers make one load of it. */
static uint64_t word_at(const uint8_t *b)
{
    return (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 |
           (uint64_t)b[4] << 32 | (uint64_t)b[5] << 40 | (uint64_t)b[6] << 48 |
           (uint64_t)b[7] << 56;
}

static const float *held(const snn_agent *agent, int32_t place, int32_t offset)
{
    return (place == IN_SUMS ? agent->sums : agent->floats) + offset;
}

/* Where the weights of an input channel begin, and its group's outputs. */
static size_t base_of(const Operation *op, size_t channel, size_t *group)
{
    *group = 0;
    if (op->per_group != op->channels)
        *group = channel / (size_t)op->per_group * (size_t)op->row;
    return (size_t)op->weights + channel * (size_t)op->kernel;
}

/* Add the weights of one input, times `factor`, to the outputs that it reaches. */
static void add_runs(const uint32_t *bounds, size_t base, size_t group, float factor, float *out)
{
    for (uint32_t j = bounds[0]; j < bounds[1]; j += 2)
        for (uint32_t k = bounds[2]; k < bounds[3]; k += 3) {
            const float *w = weights + base + tables[j] + tables[k];
            float *restrict o = out + group + tables[j + 1] + tables[k + 1];
            size_t length = tables[k + 2];
            for (size_t n = 0; n < length; n++)
                o[n] += factor * w[n];
        }
}

#if SNN_PIXELS
/* Bring the sums of the last frame to those of this one: only pixels that changed count. */
static void changed_pixels(const Operation *op, const uint8_t *now, uint8_t *seen, float *out)
{
    size_t inputs = (size_t)op->inputs, image = inputs / (size_t)op->channels, channel = 0, p = 0;
    while (p < inputs) {
        if (p % 8 == 0 && p + 8 <= inputs && word_at(now + p) == word_at(seen + p)) {
            p += 8;
            continue;
        }
        if (now[p] != seen[p]) {
            size_t group, base;
            float step = (float)((int32_t)now[p] - (int32_t)seen[p]) * 0x1p-8f;
            while (p >= (channel + 1) * image)
                channel++;
            base = base_of(op, channel, &group);
            add_runs(tables + op->table + 4 * (p - channel * image), base, group, step, out);
        }
        p++;
    }
}
#else
/* A real-valued observation times weights, summed in double, rounded once. */
static void dense(const Operation *op, const float *x, float *out)
{
    enum { BLOCK = 64 };
    double total[BLOCK];
    size_t outputs = (size_t)op->outputs;
    for (size_t first = 0; first < outputs; first += BLOCK) {
        size_t size = outputs - first < BLOCK ? outputs - first : BLOCK;
        for (size_t n = 0; n < size; n++)
            total[n] = 0.0;
        for (size_t i = 0; i < (size_t)op->inputs; i++) {
            const float *w = weights + (size_t)op->weights + i * outputs + first;
            double value = (double)x[i];
            for (size_t n = 0; n < size; n++)
                total[n] += value * (double)w[n]; /* the product is exact */
        }
        for (size_t n = 0; n < size; n++)
            out[first + n] = (float)(total[n] + (double)weights[(size_t)op->bias + first + n]);
    }
}
#endif

static size_t count_ones(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    return (size_t)(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

/* Index of the lowest bit that is set. */
static size_t lowest(uint64_t word)
{
    static const uint8_t index[64] = {
        0,  1,  2,  53, 3,  7,  54, 27, 4,  38, 41, 8,  34, 55, 48, 28, 62, 5,  39, 46, 44, 42,
        22, 9,  24, 35, 59, 56, 49, 18, 29, 11, 63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21,
        23, 58, 17, 10, 51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12};
    return index[((word & (~word + 1)) * 0x022fdd63cc95386du) >> 58]; /* a de Bruijn sequence */
}

/* List the spikes' indices, and how many of them come before each position. Here as below, what
 * would be a branch that no processor foresees is done without. */
static void list_spikes(const Operation *op, const uint8_t *spikes, snn_index *list,
                        snn_index *before)
{
    size_t inputs = (size_t)op->inputs, channels = (size_t)op->channels, count = 0, position = 0;
    for (size_t first = 0; first < inputs; first += 64) {
        uint64_t word = 0;
        for (size_t j = 0; j < 8; j++) /* eight bytes of 0 or 1 become eight bits */
            word |= (word_at(spikes + first + 8 * j) * 0x0102040810204080u) >> 56 << 8 * j;
        for (; position * channels < first + 64 && position * channels < inputs; position++) {
            uint64_t below = ((uint64_t)1 << (position * channels - first)) - 1;
            before[position] = (snn_index)(count + count_ones(word & below));
        }
        for (; word != 0; word &= word - 1)
            list[count++] = (snn_index)(first + lowest(word));
    }
    before[position] = (snn_index)count;
}

/* Which rows of weights the spikes bring that an output position sees: their number, a multiple of
 * 8, since rows of zeros fill up. */
static size_t list_rows(const Operation *op, size_t position, const snn_index *list,
                        const snn_index *before, snn_index *restrict rows)
{
    const uint32_t *bounds = tables + op->table + 2 * position;
    snn_index zeros = (snn_index)(op->kernel / op->out_channels * op->channels);
    size_t count = 0;
    for (uint32_t k = bounds[0]; k < bounds[1]; k += 3) {
        size_t begin = before[tables[k]], size = before[tables[k + 1]] - begin, i = 0;
        snn_index shift = (snn_index)tables[k + 2];
        do /* always so many: what follows overwrites */
            for (size_t n = 0; n < COPIED; n++)
                rows[count + i + n] = (snn_index)(list[begin + i + n] + shift);
        while ((i += COPIED) < size);
        count += size;
    }
    for (size_t n = 0; n < 8; n++)
        rows[count + n] = zeros;
    return (count + 7) / 8 * 8;
}

/* Add rows of weights, eight at a time: whole numbers, exact in any order. */
static void add_rows(const int16_t *from, const snn_index *rows, size_t count, size_t width,
                     int32_t *restrict out)
{
    for (size_t i = 0; i < count; i += 8) {
        const int16_t *a = from + rows[i] * width, *b = from + rows[i + 1] * width;
        const int16_t *c = from + rows[i + 2] * width, *d = from + rows[i + 3] * width;
        const int16_t *e = from + rows[i + 4] * width, *f = from + rows[i + 5] * width;
        const int16_t *g = from + rows[i + 6] * width, *h = from + rows[i + 7] * width;
        for (size_t n = 0; n < width; n++)
            out[n] += ((a[n] + b[n]) + (c[n] + d[n])) + ((e[n] + f[n]) + (g[n] + h[n]));
    }
}

/* Add what the listed spikes bring to one position of the output. */
static void gather(const Operation *op, size_t position, snn_agent *agent, int32_t *out)
{
    size_t count = list_rows(op, position, agent->list, agent->before, agent->rows);
    add_rows(whole + op->weights, agent->rows, count, (size_t)op->out_channels, out);
}

/* Add what spikes bring, one after the other: where channels come in groups. */
static void add_grouped(const Operation *op, const uint8_t *spikes, int32_t *out)
{
    size_t channels = (size_t)op->channels;
    for (size_t i = 0; i < (size_t)op->inputs; i++)
        if (spikes[i]) {
            const uint32_t *b = tables + op->table + 4 * (i / channels);
            size_t group, base = base_of(op, i % channels, &group);
            for (uint32_t j = b[0]; j < b[1]; j += 2)
                for (uint32_t k = b[2]; k < b[3]; k += 3) {
                    const int16_t *w = whole + base + tables[j] + tables[k];
                    int32_t *restrict o = out + group + tables[j + 1] + tables[k + 1];
                    for (size_t n = 0; n < tables[k + 2]; n++)
                        o[n] += w[n];
                }
        }
}

/* Add what floats bring: sums of pooled spikes or pixels. */
static void add_values(const Operation *op, const float *x, float *out)
{
    size_t channels = (size_t)op->channels, begin = 0;
    const uint32_t *bounds = tables + op->table;
    for (size_t i = 0; i < (size_t)op->inputs; i++)
        if (x[i] != 0.0f) {
            size_t group, base;
            for (; i - begin >= channels; begin += channels)
                bounds += 4;
            base = base_of(op, i - begin, &group);
            add_runs(bounds, base, group, x[i], out);
        }
}

/* One timestep of leaky integrate-and-fire neurons, reset by subtraction. */
static void fire(size_t size, const float *threshold, const float *leak, const float *current,
                 float *restrict membrane, uint8_t *restrict spikes)
{
    for (size_t n = 0; n < size; n++) {
        float decayed = leak[n] * membrane[n];
        float u = decayed + current[n];
        int32_t fires = u > threshold[n];
        spikes[n] = (uint8_t)fires;
        membrane[n] = u - threshold[n] * (float)fires; /* no branch, so that it becomes vectors */
    }
}

static void lif(const Operation *op, snn_agent *agent)
{
    fire((size_t)op->outputs, weights + op->bias, weights + op->second,
         held(agent, op->source_in, op->source), agent->state.membranes + op->membrane,
         agent->spikes + op->target);
}

static void fill(float *out, size_t outputs, const float *bias, size_t channels)
{
    for (size_t at = 0; at < outputs; at += channels)
        for (size_t n = 0; n < channels; n++)
            out[at + n] = bias[n];
}

/* Sums of whole weights as floats: exact, since they stay below 2^24. */
static void off_grid(const int32_t *total, size_t count, float unit, const float *bias,
                     float *restrict out)
{
    for (size_t n = 0; n < count; n++)
        out[n] = (float)total[n] * unit + bias[n];
}

static void clear(int32_t *total, size_t count)
{
    for (size_t n = 0; n < count; n++)
        total[n] = 0;
}

/* A convolution, pool or linear layer of spikes. */
static void scatter_spikes(const Operation *op, snn_agent *agent, float *out)
{
    size_t outputs = (size_t)op->outputs, channels = (size_t)op->out_channels;
    const uint8_t *spikes = agent->spikes + op->source;
    int32_t *total = agent->accumulators;
    int grouped = op->per_group != op->channels;
    if (grouped) {
        clear(total, outputs);
        add_grouped(op, spikes, total);
    } else
        list_spikes(op, spikes, agent->list, agent->before);
    for (size_t at = 0; at < outputs; at += channels) {
        if (!grouped) {
            clear(total, channels);
            gather(op, at / channels, agent, total);
        }
        off_grid(grouped ? total + at : total, channels, weights[op->second], weights + op->bias,
                 out + at);
    }
}

/* The same of spikes or of floats. */
static void scatter(const Operation *op, snn_agent *agent)
{
    float *out = agent->floats + op->target;
    if (op->source_in == IN_SPIKES)
        scatter_spikes(op, agent, out);
    else {
        fill(out, (size_t)op->outputs, weights + op->bias, (size_t)op->out_channels);
        add_values(op, held(agent, op->source_in, op->source), out);
    }
}

/* The last layer: summed over the timesteps, then the mean. */
static void read_out(const Operation *op, snn_agent *agent, int step, float *q)
{
    size_t outputs = (size_t)op->outputs;
    const float *bias = weights + op->bias;
    float *out = agent->floats + op->target, steps = (float)SNN_TIMESTEPS;
    int32_t *total = agent->accumulators + op->accumulator;
    int spikes = op->source_in == IN_SPIKES;
    for (size_t n = 0; step == 0 && n < outputs; n++) {
        out[n] = 0.0f;
        if (spikes)
            total[n] = 0;
    }
    if (spikes) {
        list_spikes(op, agent->spikes + op->source, agent->list, agent->before);
        gather(op, 0, agent, total);
    } else
        add_values(op, held(agent, op->source_in, op->source), out);
    for (size_t n = 0; step == SNN_TIMESTEPS - 1 && n < outputs; n++) {
        float sum = spikes ? (float)total[n] * weights[op->second] : out[n];
        q[n] = (sum + steps * bias[n]) / steps;
    }
}

static void scale(const Operation *op, snn_agent *agent)
{
    float *out = agent->floats + op->target, factor = weights[op->weights];
    size_t outputs = (size_t)op->outputs;
    if (op->source_in == IN_SPIKES) {
        const uint8_t *spikes = agent->spikes + op->source;
        for (size_t n = 0; n < outputs; n++)
            out[n] = (float)spikes[n] * factor;
    } else {
        const float *values = held(agent, op->source_in, op->source);
        for (size_t n = 0; n < outputs; n++)
            out[n] = values[n] * factor;
    }
}

static void add(const Operation *op, snn_agent *agent)
{
    const float *a = held(agent, op->source_in, op->source);
    const float *b = held(agent, op->second_in, op->second);
    for (size_t n = 0; n < (size_t)op->outputs; n++)
        agent->floats[(size_t)op->target + n] = a[n] + b[n];
}

static void run(const Operation *op, snn_agent *agent, int step, float *q)
{
    switch (op->kind) {
#if SNN_PIXELS
    case PIXELS:
        changed_pixels(op, agent->input, agent->seen, agent->sums + op->target);
        break;
#else
    case DENSE:
        dense(op, agent->input, agent->floats + op->target);
        break;
#endif
    case SCATTER:
        scatter(op, agent);
        break;
    case SCALE:
        scale(op, agent);
        break;
    case ADD:
        add(op, agent);
        break;
    case LIF:
        lif(op, agent);
        break;
    case READOUT:
        read_out(op, agent, step, q);
        break;
    }
}

/* Put the frame behind those before it, and let the history follow. */
static void take(snn_agent *agent, const snn_value *frame)
{
    const size_t earlier = SNN_HISTORY * SNN_INPUTS;
    for (size_t n = 0; n < earlier; n++)
        agent->input[n] = agent->state.history[n];
    for (size_t n = 0; n < SNN_INPUTS; n++)
#if SNN_PIXELS
        agent->input[earlier + n] = frame[n];
#else
        agent->input[earlier + n] = frame[n] * factors[n];
#endif
    for (size_t n = 0; n < earlier; n++)
        agent->state.history[n] = agent->input[SNN_INPUTS + n];
}

static void begin_membranes(snn_agent *agent)
{
    for (size_t n = 0; n < SNN_NEURONS; n++)
        agent->state.membranes[n] = SNN_RESTING(n);
}

void snn_reset(snn_agent *agent)
{
    begin_membranes(agent);
    for (size_t n = 0; n < sizeof agent->state.history / sizeof(snn_value); n++)
        agent->state.history[n] = 0;
#if SNN_PIXELS
    for (size_t n = 0; n < sizeof agent->seen; n++)
        agent->seen[n] = SNN_OFFSET;
    for (size_t n = 0; n < sizeof agent->sums / sizeof *agent->sums; n++)
        agent->sums[n] = sums[n];
#endif
    for (size_t n = 0; n < sizeof agent->spikes; n++)
        agent->spikes[n] = 0; /* those that fill up a word stay so */
}

int snn_act(snn_agent *agent, const snn_value frame[SNN_INPUTS], float q[SNN_ACTIONS])
{
    int best = 0;
#if !SNN_PIXELS
    for (size_t n = 0; n < SNN_INPUTS; n++)
        if (!(frame[n] - frame[n] == 0.0f))
            return -1;
#endif
    take(agent, frame);
    if (!SNN_CARRY)
        begin_membranes(agent);
    for (int step = -1; step < SNN_TIMESTEPS; step++) /* -1: what is the same at all of them */
        for (size_t n = 0; n < sizeof program / sizeof *program; n++)
            if (program[n].once == (step < 0))
                run(program + n, agent, step, q);
#if SNN_PIXELS
    for (size_t n = 0; n < sizeof agent->seen; n++)
        agent->seen[n] = agent->input[n];
#endif
    for (int n = 1; n < SNN_ACTIONS; n++)
        if (q[n] > q[best])
            best = n;
    return best;
}

#ifdef SNN_SELF_TEST
#include <stdio.h>

#include "${stem}_trace.h"

/* Every bit of a number. */
static uint32_t bits(float value)
{
    union {
        float value;
        uint32_t bits;
    } same;
    same.value = value;
    return same.bits;
}

/* Whether neurons round twice and keep denormal numbers, in vectors as in what is left of them. */
static int arithmetic_fits(void)
{
    enum { SIZE = 67 };
    static volatile float values[4] = {0x1.001p+0f, 0x1.fffp-1f, 0x1p-126f, 0x1p-1f};
    float threshold[SIZE], leak[SIZE], current[SIZE], membrane[SIZE];
    uint8_t spikes[SIZE];
    for (int n = 0; n < SIZE; n++) {
        int odd = n % 2;
        threshold[n] = 2.0f;
        membrane[n] = values[2 * odd];
        leak[n] = values[2 * odd + 1];
        current[n] = odd ? 0.0f : -1.0f;
    }
    fire(SIZE, threshold, leak, current, membrane, spikes);
    for (int n = 0; n < SIZE; n++)
        if (bits(membrane[n]) != bits(n % 2 ? 0x1p-127f : 0x1p-13f))
            return 0;
    return 1;
}

/* The next frame of the trace. */
static void next_frame(const uint32_t **at, snn_value *frame)
{
#if SNN_PIXELS
    uint32_t changes = *(*at)++;
    for (; changes > 0; changes--, (*at)++)
        frame[**at >> 8] = (uint8_t)(**at & 255);
#else
    union {
        uint32_t bits;
        float value;
    } same;
    for (size_t n = 0; n < SNN_INPUTS; n++) {
        same.bits = *(*at)++;
        frame[n] = same.value;
    }
#endif
}

int main(void)
{
    static snn_agent agent;
    static snn_value frame[SNN_INPUTS];
    const uint32_t *at = trace_frames;
    float q[SNN_ACTIONS];
    if (!arithmetic_fits()) {
        puts("self-test failed: compiled with fused multiply-adds or without denormal numbers");
        return 2;
    }
    for (size_t n = 0; n < TRACE_LENGTH; n++) {
        if (trace_starts[n])
            snn_reset(&agent);
        next_frame(&at, frame);
        snn_act(&agent, frame, q);
        for (size_t a = 0; a < SNN_ACTIONS; a++)
            if (bits(q[a]) != trace_q[n * SNN_ACTIONS + a]) {
                printf("self-test failed: frame %lu has other Q-values\n", (unsigned long)n);
                return 1;
            }
    }
    for (size_t n = 0; SNN_CARRY && n < SNN_NEURONS; n++)
        if (bits(agent.state.membranes[n]) != trace_membranes[n]) {
            puts("self-test failed: the last membranes differ");
            return 1;
        }
    printf("self-test passed: %lu frames, every bit of every Q-value\n",
           (unsigned long)TRACE_LENGTH);
    return 0;
}
#endif
