"use strict";
/*
 * The spiking network, as docs/numerics.md has it, in the browser. JavaScript's numbers are float64;
 * Math.fround rounds them to float32 where the Python engine does, so the two agree bit for bit.
 * Weights are whole numbers times a power of two: their sums are exact here and there.
 */
class SpikingNetwork {
  /** @param saved what make.py writes: scale, layers with weight, bias, k, threshold, leak, start */
  constructor(saved) {
    this.scale = saved.scale;
    this.layers = saved.layers.map((layer) => {
      const unit = 2 ** -layer.k;
      return {
        outputs: layer.outputs,
        inputs: layer.inputs,
        weight: Float64Array.from(decode(layer.weight, Int16Array), (w) => w * unit),
        bias: Float64Array.from(decode(layer.bias, Int16Array), (b) => b * unit),
        threshold: layer.threshold ? decode(layer.threshold, Float32Array) : null,
        leak: layer.leak ? decode(layer.leak, Float32Array) : null,
        start: layer.start || 0,
      };
    });
    this.reset();
  }

  /** Membranes as at the start of an episode. */
  reset() {
    this.membranes = this.layers
      .filter((layer) => layer.leak)
      .map((layer) => layer.threshold.map((v) => Math.fround(layer.start * v)));
    this.spikes = this.membranes.map((membrane) => new Uint8Array(membrane.length));
  }

  /** Q-values after one frame (T = 1); `spikes` and `membranes` hold what the neurons did. */
  step(observation) {
    let x = observation.map((value, i) => Math.fround(Math.fround(value) * this.scale[i]));
    this.layers.forEach((layer, index) => {
      const current = weighted(layer, x);
      if (!layer.leak) {
        x = current;
        return;
      }
      const membrane = this.membranes[index];
      const spikes = this.spikes[index];
      for (let n = 0; n < layer.outputs; n++) {
        // Multiply, round, then add, round: never fused.
        const u = Math.fround(Math.fround(layer.leak[n] * membrane[n]) + current[n]);
        spikes[n] = u > layer.threshold[n] ? 1 : 0;
        membrane[n] = spikes[n] ? u - layer.threshold[n] : u;
      }
      x = spikes;
    });
    return x;
  }
}

/** Weighted input of a layer, rounded to float32 once. */
function weighted(layer, x) {
  const result = new Float32Array(layer.outputs);
  for (let n = 0; n < layer.outputs; n++) {
    let sum = 0;
    for (let i = 0; i < layer.inputs; i++) {
      sum += layer.weight[n * layer.inputs + i] * x[i];
    }
    result[n] = sum + layer.bias[n];
  }
  return result;
}

/** Index of the largest value, the first one of equals. */
function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    if (values[i] > values[best]) best = i;
  }
  return best;
}

/** Numbers of an array type from base64 (little-endian). */
function decode(text, Type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Type(bytes.buffer);
}
