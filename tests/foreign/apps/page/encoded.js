// A worker between the network and a browser's encoder or decoder. For a receiver it reports keyframes and forwards
// everything; for a sender it sends only `unit`, instead of each keyframe.

const digits = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function receive(frame, writer) {
  if (frame.type === "key") {
    const { rtpTimestamp } = frame.getMetadata();
    postMessage({ event: "keyframe", rtpTimestamp, sha256: digits(await crypto.subtle.digest("SHA-256", frame.data)) });
  }
  await writer.write(frame);
}

async function send(frame, writer, unit) {
  if (frame.type !== "key") return;
  frame.data = unit.slice(0);
  await writer.write(frame);
  postMessage({ event: "picture" });
}

onrtctransform = async ({ transformer }) => {
  const { unit } = transformer.options;
  let stopped = false;
  onmessage = () => (stopped = true);
  const reader = transformer.readable.getReader();
  const writer = transformer.writable.getWriter();
  for (;;) {
    const { value: frame, done } = await reader.read();
    if (done) return;
    if (!stopped) await (unit ? send(frame, writer, unit) : receive(frame, writer));
  }
};
