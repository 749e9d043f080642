"use strict";
/* The loop: 50 frames a second of network and physics, whatever the screen's rate. */
(function () {
  const $ = (id) => document.getElementById(id);
  const network = new SpikingNetwork(WEIGHTS);
  const glow = network.spikes.map((spikes) => new Float32Array(spikes.length));
  const FALL = 60; // frames in which a lost pole is seen to fall
  const PLAYED = 250; // frames before the page is first shown
  const REMEMBERED = 700; // frames of the raster
  let state, frames, fallen, best = 0, q = [0, 0], action = 1, running = true, history = [];

  function begin() {
    state = CartPole.start();
    network.reset();
    frames = fallen = 0;
  }

  function tick() {
    const push = Number($("push").value);
    if (fallen) {
      fall();
      return;
    }
    if ($("zero").checked) network.reset();
    q = network.step([state[0], state[2]]);
    action = argmax(q);
    state = CartPole.step(state, action ? 10 : -10, push);
    frames++;
    best = Math.max(best, frames);
    if (CartPole.lost(state)) fallen = 1;
    remember();
  }

  /** A lost pole tips over, unattended, and a new one is put up. */
  function fall() {
    const [x, velocity, angle, spin] = CartPole.step(state, 0);
    const lying = Math.abs(angle) >= Math.PI / 2;
    const end = Math.sign(angle) * (Math.PI / 2);
    state = [x, velocity * 0.9, lying ? end : angle, lying ? 0 : spin];
    glow.forEach((layer) => layer.forEach((value, n) => (layer[n] = value * 0.8)));
    if (++fallen > FALL) begin();
  }

  function remember() {
    glow.forEach((layer, index) => {
      const spikes = network.spikes[index];
      for (let n = 0; n < layer.length; n++) layer[n] = spikes[n] ? 1 : layer[n] * 0.8;
    });
    history.push({
      spikes: network.spikes.map((spikes) => [...spikes.keys()].filter((n) => spikes[n])),
      sizes: network.spikes.map((spikes) => spikes.length),
      angle: state[2],
      last: fallen > 0,
    });
    history = history.slice(-REMEMBERED);
  }

  function draw() {
    const colour = colours();
    drawGame($("game"), state, { action, push: Number($("push").value), over: fallen > 0 }, colour);
    drawNeurons($("hidden1"), glow[0], colour);
    drawNeurons($("hidden2"), glow[1], colour);
    drawValues($("values"), q, colour);
    drawRaster($("raster"), history, colour);
    $("frames").textContent = frames;
    $("seconds").textContent = `${(frames * CartPole.TAU).toFixed(1)} s`;
    $("best").textContent = best;
    network.spikes.forEach((spikes, layer) => {
      $(`rate${layer + 1}`).textContent = spikes.reduce((sum, spike) => sum + spike, 0);
    });
  }

  function pause(stop) {
    running = !stop;
    $("pause").textContent = stop ? "Go on" : "Pause";
  }

  $("pause").onclick = () => pause(running);
  $("again").onclick = begin;
  const letGo = () => ($("push").value = 0);
  for (const event of ["change", "pointerup", "pointercancel", "blur"]) {
    $("push").addEventListener(event, letGo);
  }

  let owed = 0, before = null;
  function loop(now) {
    owed += before === null ? 0 : Math.min(100, now - before);
    before = now;
    for (; owed >= 1000 * CartPole.TAU; owed -= 1000 * CartPole.TAU) if (running) tick();
    draw();
    requestAnimationFrame(loop);
  }
  begin();
  for (let frame = 0; frame < PLAYED; frame++) tick();
  if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) pause(true);
  requestAnimationFrame(loop);
  window.live = { tick, pause, score: () => ({ frames, fallen, best }) }; // for tests
})();
