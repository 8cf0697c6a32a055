// The pictures of streams, all over one WebSocket. A canvas gets pictures only while it can be seen.

import { socketUrl } from "./http.js";

const RECONNECT_S = 2;

/** Shows the newest frames of streams on canvases. */
export class Previews {
  /**
   * `boxes` says whether detections are drawn. `onFrame(streamId, header)` is called for each frame that is shown, and
   * `onError(streamId, text)` if the server cannot send a stream's frames.
   */
  constructor({ maxFps = 5, boxes = true, onFrame = () => {}, onError = () => {} } = {}) {
    this.maxFps = maxFps;
    this.boxes = boxes;
    this.onFrame = onFrame;
    this.onError = onError;
    this.canvases = new Map(); // by stream id
    this.visible = new Set(); // of stream ids
    this.socket = null;
    this.timer = 0;
    this.observer = new IntersectionObserver((entries) => this.#onSeen(entries), { rootMargin: "80px" });
    this.onVisibility = () => this.#update();
    document.addEventListener("visibilitychange", this.onVisibility);
  }

  /** Show a stream on a canvas. */
  add(streamId, canvas) {
    canvas.streamId = streamId;
    this.canvases.set(streamId, canvas);
    this.observer.observe(canvas);
  }

  remove(streamId) {
    const canvas = this.canvases.get(streamId);
    if (!canvas) return;
    this.observer.unobserve(canvas);
    this.canvases.delete(streamId);
    this.visible.delete(streamId);
    this.#update();
  }

  setBoxes(boxes) {
    this.boxes = boxes;
    this.#update();
  }

  close() {
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.observer.disconnect();
    this.canvases.clear();
    this.visible.clear();
    this.#update();
  }

  #onSeen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.visible.add(target.streamId);
      else this.visible.delete(target.streamId);
    }
    this.#update();
  }

  /** Tell the server what to send. Without anything to show, there is no connection. */
  #update() {
    clearTimeout(this.timer);
    if (document.hidden || !this.visible.size) {
      this.socket?.close();
      this.socket = null;
    } else if (!this.socket) {
      this.#connect();
    } else if (this.socket.readyState === WebSocket.OPEN) {
      const streams = [...this.visible].slice(0, 64).sort();
      const wish = JSON.stringify({ streams, max_fps: this.maxFps, boxes: this.boxes });
      if (wish !== this.wish) this.socket.send(wish);
      this.wish = wish;
    }
  }

  #connect() {
    const socket = new WebSocket(socketUrl("/streams/previews"));
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.wish = "";
    socket.onopen = () => this.#update();
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) return this.#show(data);
      const { stream_id, detail } = JSON.parse(data);
      this.onError(stream_id, detail);
    };
    socket.onclose = ({ reason }) => {
      if (this.socket !== socket) return;
      if (reason) this.visible.forEach((id) => this.onError(id, reason));
      this.socket = null;
      this.timer = setTimeout(() => this.#update(), RECONNECT_S * 1000);
    };
  }

  async #show(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const canvas = this.canvases.get(header.stream_id);
    if (!canvas || canvas.isDecoding) return; // a slow browser leaves frames out
    canvas.isDecoding = true;
    try {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
      if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
      if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      canvas.hidden = false;
      this.onFrame(header.stream_id, header);
    } catch {
      // a damaged picture: the next one follows
    } finally {
      canvas.isDecoding = false;
    }
  }
}
