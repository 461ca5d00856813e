// The camera's picture, one frame at a time.

import { PageError } from "./bundle.js";

const REASONS = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, then start it again.",
  NotFoundError: "No camera was found. Choose a photo instead.",
  NotReadableError: "The camera is in use by another program. Close that, then start it again.",
  OverconstrainedError: "No camera fits. Choose a photo instead.",
};

export class Camera {
  #video = document.createElement("video");
  #stream;

  /**
   * Asks for the camera; the one that looks away from the person where there are two.
   * @param {AbortSignal} signal Ends the wait: a browser's question may stay unanswered for ever.
   * @returns {Promise<boolean>} Whether the camera runs; if it is allowed only after the wait, it is let go at once.
   */
  start(signal) {
    const given = new Promise((resolve) => {
      signal.addEventListener("abort", () => resolve(false));
      if (signal.aborted) resolve(false);
    });
    return Promise.race([this.#open(signal), given]);
  }

  async #open(signal) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new PageError("The camera needs a secure address: open the page over https:// or on http://localhost.");
    }
    try {
      const video = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      throw new PageError(REASONS[error.name] ?? `The camera could not be started: ${error.message}`);
    }
    if (signal.aborted) {
      this.stop();
      return false;
    }
    this.#video.muted = true;
    this.#video.playsInline = true;
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    return true;
  }

  /** The current frame, drawn on `canvas`, which takes its size. */
  draw(canvas) {
    [canvas.width, canvas.height] = [this.#video.videoWidth, this.#video.videoHeight];
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
  }

  /** Calls `ended` when the camera goes away by itself, e.g. when it is unplugged. */
  onEnd(ended) {
    this.#stream.getVideoTracks()[0].addEventListener("ended", ended);
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#video.srcObject = null;
  }
}
