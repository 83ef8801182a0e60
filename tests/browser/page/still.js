// A phone like the Orion app: a photo every few seconds, each as a keyframe, and continuous pings.

import { pixels } from "./pictures.js";

/** A track that shows the picture at `url`, one frame per call of `next`, never the same twice. */
export async function still(canvas, { url, width, height }) {
  Object.assign(canvas, { width, height });
  const photo = await createImageBitmap(await pixels(url));
  const context = canvas.getContext("2d");
  const stream = canvas.captureStream(0);
  let step = 0;
  const next = () => {
    // A different part of the photo each time, like a hand-held camera.
    const shift = 16 * (step % 4);
    context.drawImage(photo, shift, 0, photo.width - 64, photo.height, 0, 0, width, height);
    step += 1;
    stream.getVideoTracks()[0].requestFrame();
  };
  return { stream, next };
}

/** Pings on a channel every `every` ms; returns a growing list with the time of each ping and its response time in ms, or
 * null. */
export function pinging(channel, every) {
  const pings = [];
  channel.addEventListener("message", ({ data }) => {
    const { t, id } = JSON.parse(data);
    const ping = t === "pong" && pings[id];
    if (ping && ping.took === null) ping.took = performance.now() - ping.began;
  });
  setInterval(() => {
    if (channel.readyState !== "open") return;
    const began = performance.now();
    pings.push({ at: performance.timeOrigin + began, began, took: null });
    channel.send(JSON.stringify({ t: "ping", id: pings.length - 1, ts: Date.now() / 1000 }));
  }, every);
  return pings;
}
