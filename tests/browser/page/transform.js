// A worker between Chromium's encoder and its packetizer (W3C RTCRtpScriptTransform): drops pictures on request, like
// losses that cannot be repaired, and reports each keyframe. With a `unit`, only the unit is sent, instead of each
// keyframe; with `times` it reports when each is sent.

let lose = 0;

onrtctransform = async ({ transformer }) => {
  const reader = transformer.readable.getReader();
  const writer = transformer.writable.getWriter();
  const { unit, times } = transformer.options ?? {};
  for (;;) {
    const { value: frame, done } = await reader.read();
    if (done) return;
    if (times) {
      if (unit && frame.type !== "key") continue;
      if (unit) frame.data = unit.slice(0);
      if (frame.type === "key") postMessage({ sent: { at: performance.timeOrigin + performance.now(), bytes: frame.data.byteLength } });
      await writer.write(frame);
      continue;
    }
    if (frame.type === "key") postMessage({ keyframe: await keyframe(frame) });
    if (frame.type === "delta" && lose > 0) {
      lose -= 1;
      postMessage({ lost: frame.data.byteLength });
    } else {
      await writer.write(frame);
    }
  }
};

/** The announcement of a keyframe. */
async function keyframe(frame) {
  const { rtpTimestamp, width, height } = frame.getMetadata();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", frame.data));
  const sha256 = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { rtpTimestamp, captureTime: Date.now() / 1000, bytes: frame.data.byteLength, sha256, width, height };
}

onmessage = ({ data }) => {
  lose = data.lose;
};
