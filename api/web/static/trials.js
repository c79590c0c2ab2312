// The short trainings of a job, put together from its events.

/** What the events of one job have said so far. */
export class Trials {
  #byIndex = new Map();

  /** Begin again from what the API gives as trials; `curves` keeps their curves. */
  constructor(known, { curves }) {
    for (const one of known) {
      this.#byIndex.set(one.index, {
        ...blank(one),
        ...(curves && {
          status: one.status,
          stopped: one.stopped,
          losses: one.loss_curve ?? [],
          judged: one.val_curve ?? [],
          steps: one.steps,
        }),
      });
    }
  }

  /** All, in order of prior. */
  get all() {
    return [...this.#byIndex.values()].sort((one, other) => one.index - other.index);
  }

  /** As the table has them: who got further comes first, then the lower validation loss. */
  get ranked() {
    const depth = ({ judged }) => judged.at(-1)?.[0] ?? 0;
    const loss = ({ judged }) => judged.at(-1)?.[1] ?? Infinity;
    // Infinity - Infinity is no order: equal ones go by prior.
    return this.all.sort((a, b) => depth(b) - depth(a) || loss(a) - loss(b) || a.index - b.index);
  }

  started({ trial, index, label }) {
    Object.assign(this.#one(index), { id: trial, label, status: "running" });
  }

  trained({ index, step, loss, points }) {
    const one = this.#one(index);
    one.losses.push(...points);
    one.steps = step;
    if (loss === null) one.status = "diverged";
  }

  judged({ index, step, val_loss }) {
    this.#one(index).judged.push([step, val_loss]);
  }

  finished({ index, status, reason }) {
    Object.assign(this.#one(index), { status, stopped: reason });
  }

  /** Take over how they ended from what the API gives: a cancelled job's are closed without events. */
  ended(known) {
    for (const { id, index, label, status, stopped } of known) {
      Object.assign(this.#one(index), { id, label, status, stopped });
    }
  }

  #one(index) {
    if (!this.#byIndex.has(index)) this.#byIndex.set(index, blank({ index, label: `trial ${index}` }));
    return this.#byIndex.get(index);
  }
}

const blank = ({ id, index, label }) => ({
  id, index, label, status: "waiting", stopped: null, steps: 0, losses: [], judged: [],
});
