"use strict";
/* Everything that is drawn. Colours come from style.css, so light and dark need no code here. */

/** A canvas's context in CSS pixels, sharp on every screen, cleared. */
function clear(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "line", "cart", "pole", "spike", "dim", "accent", "danger"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** The cart, its pole, the track; an arrow for the cart's push and one for the visitor's. */
function drawGame(canvas, [x, , angle], { action, push, over }, colour) {
  const { context: c, width, height } = clear(canvas);
  const metre = width / 5.4;
  const ground = height * 0.84;
  const length = Math.min(height * 0.62, metre * 2.2);
  const cart = [width * 0.17, height * 0.12];
  const centre = width / 2 + x * metre;

  c.fillStyle = colour.line;
  c.fillRect(0, ground + cart[1] / 2 + 3, width, 2);
  c.fillStyle = colour.danger;
  for (const side of [-1, 1]) {
    c.fillRect(width / 2 + side * CartPole.LIMIT_X * metre - 1, ground + cart[1] / 2 - 5, 2, 16);
  }
  c.fillStyle = colour.cart;
  c.beginPath();
  c.roundRect(centre - cart[0] / 2, ground - cart[1] / 2, cart[0], cart[1], 6);
  c.fill();
  if (!over) arrow(c, centre + (action ? 1 : -1) * (cart[0] / 2 + 6), ground, action ? 18 : -18, colour.accent);

  const foot = [centre, ground - cart[1] * 0.2];
  const tip = [foot[0] + length * Math.sin(angle), foot[1] - length * Math.cos(angle)];
  c.lineCap = "round";
  c.strokeStyle = over ? colour.danger : colour.pole;
  c.lineWidth = Math.max(8, width * 0.018);
  c.beginPath();
  c.moveTo(...foot);
  c.lineTo(...tip);
  c.stroke();
  c.fillStyle = colour.ink;
  c.beginPath();
  c.arc(...foot, 4, 0, 2 * Math.PI);
  c.fill();
  if (push) arrow(c, tip[0] - Math.sign(push) * 52, tip[1], Math.sign(push) * (10 + 14 * Math.abs(push)), colour.danger);
}

function arrow(c, x, y, length, colour) {
  const side = Math.sign(length);
  c.strokeStyle = colour;
  c.lineWidth = 3;
  c.lineCap = "round";
  c.lineJoin = "round";
  c.beginPath();
  c.moveTo(x, y);
  c.lineTo(x + length, y);
  c.moveTo(x + length - 6 * side, y - 6);
  c.lineTo(x + length, y);
  c.lineTo(x + length - 6 * side, y + 6);
  c.stroke();
}

/** A layer's neurons as a lattice of 16 columns; glow is 1 at a spike and fades. */
function drawNeurons(canvas, glow, colour) {
  const { context: c, width, height } = clear(canvas);
  const columns = 16;
  const cell = Math.min(width / columns, height / (glow.length / columns));
  for (let n = 0; n < glow.length; n++) {
    const x = ((n % columns) + 0.5) * cell;
    const y = (Math.floor(n / columns) + 0.5) * cell;
    c.fillStyle = colour.dim;
    disc(c, x, y, cell * 0.36);
    if (glow[n] > 0.02) {
      c.globalAlpha = glow[n];
      c.fillStyle = colour.spike;
      disc(c, x, y, cell * (0.36 + 0.1 * glow[n]));
      c.globalAlpha = 1;
    }
  }
}

function disc(c, x, y, radius) {
  c.beginPath();
  c.arc(x, y, radius, 0, 2 * Math.PI);
  c.fill();
}

/** Left and right: a bar to the side of the better action, as long as it is better. */
function drawValues(canvas, q, colour) {
  const { context: c, width, height } = clear(canvas);
  const lead = Math.tanh((q[1] - q[0]) / 4);
  const tall = Math.min(28, height * 0.4);
  const y = height / 2 - tall / 2 + 4;
  c.fillStyle = colour.dim;
  c.beginPath();
  c.roundRect(0, y, width, tall, 6);
  c.fill();
  c.fillStyle = colour.accent;
  c.fillRect(width / 2, y, (lead * width) / 2, tall);
  c.fillStyle = colour.ink;
  c.fillRect(width / 2 - 1, y - 4, 2, tall + 8);
  c.font = "13px system-ui, sans-serif";
  c.fillStyle = colour.muted;
  c.textBaseline = "bottom";
  c.textAlign = "left";
  c.fillText("← left", 0, y - 5);
  c.textAlign = "right";
  c.fillText("right →", width, y - 5);
}

/** All spikes of the last frames, newest on the right, and the pole's lean between the layers. */
function drawRaster(canvas, history, colour) {
  const { context: c, width, height } = clear(canvas);
  const step = 2;
  const band = 30;
  const rows = (height - band) / 2;
  const shown = history.slice(-Math.floor(width / step));
  const left = width - shown.length * step;
  c.fillStyle = colour.spike;
  shown.forEach((frame, index) => {
    frame.spikes.forEach((spiked, layer) => {
      for (const n of spiked) {
        const y = layer * (rows + band) + (n / frame.sizes[layer]) * rows;
        c.fillRect(left + index * step, y, step, 1.4);
      }
    });
  });
  const middle = rows + band / 2;
  c.fillStyle = colour.line;
  c.fillRect(0, middle, width, 1);
  c.strokeStyle = colour.pole;
  c.lineWidth = 2;
  c.beginPath();
  let drawing = false;
  shown.forEach((frame, index) => {
    const lean = Math.max(-1, Math.min(1, frame.angle / CartPole.LIMIT_ANGLE));
    const point = [left + index * step, middle - (lean * band) / 2];
    if (drawing) c.lineTo(...point);
    else c.moveTo(...point);
    drawing = !frame.last;
  });
  c.stroke();
}
