// The page's side of the worker: one promise per question.

import { PageError } from "./bundle.js";

export class Segmenter {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;
  #answered = false;
  #broken = null;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, result, problem, expected } }) => {
      this.#answered = true;
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (problem === undefined) resolve(result);
      else reject(expected ? new PageError(problem) : new Error(problem));
    });
    this.#worker.addEventListener("error", (event) => {
      const started = this.#answered;
      const problem = started
        ? new Error(event.message)
        : new PageError(`A part of this page did not start (${event.message || "worker.js"}). Load the page again.`);
      // What does not start tells so once, mostly before anything is asked of it.
      if (!started) this.#broken = problem;
      for (const { reject } of this.#waiting.values()) reject(problem);
      this.#waiting.clear();
    });
  }

  /** @param {{model: ArrayBuffer, entry: object, preprocess: object, backend: string, threads: number}} message */
  load(message) {
    return this.#ask("load", message, [message.model]);
  }

  /** @returns {Promise<{classes, size, top, picture, parts}>} The answer to a picture, which is taken away. */
  predict(bitmap, size) {
    return this.#ask("predict", { bitmap, size }, [bitmap]);
  }

  prepare(bitmap) {
    return this.#ask("prepare", { bitmap }, [bitmap]);
  }

  run(tensor) {
    return this.#ask("run", { tensor }, []);
  }

  #ask(action, message, transfer) {
    if (this.#broken) return Promise.reject(this.#broken);
    this.#next += 1;
    const id = this.#next;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, action, message }, transfer);
    });
  }
}
