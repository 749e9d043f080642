"use strict";
/* Gymnasium's CartPole-v1 in SI units: 0.02 s a frame, explicit Euler steps. */
const CartPole = {
  LIMIT_X: 2.4,
  LIMIT_ANGLE: (12 * Math.PI) / 180,
  TAU: 0.02,

  /** A start as Gymnasium draws it: [x, velocity, angle, angular velocity] within ±0.05. */
  start() {
    return [0, 0, 0, 0].map(() => Math.random() * 0.1 - 0.05);
  },

  /**
   * The state a frame later.
   * @param force on the cart in newtons: -10 (left) or 10 (right)
   * @param push extra angular acceleration of the pole, rad/s²; 0 is Gymnasium's pole
   */
  step([x, velocity, angle, spin], force, push = 0) {
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    const pull = (force + 0.05 * spin * spin * sin) / 1.1;
    const turn = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - (0.1 * cos * cos) / 1.1)) + push;
    const drive = pull - (0.05 * turn * cos) / 1.1;
    const tau = CartPole.TAU;
    return [x + tau * velocity, velocity + tau * drive, angle + tau * spin, spin + tau * turn];
  },

  /** Whether the episode is over: the pole leans too far or the cart leaves the track. */
  lost([x, , angle]) {
    return Math.abs(x) > CartPole.LIMIT_X || Math.abs(angle) > CartPole.LIMIT_ANGLE;
  },
};
