// A worker between Chromium's encoder and its packetizer (W3C RTCRtpScriptTransform): makes a
// keyframe when told to, and loses pictures on request, as a network beyond repair would.

let lose = 0;
let transformer;

onrtctransform = async (event) => {
  transformer = event.transformer;
  const writer = transformer.writable.getWriter();
  const reader = transformer.readable.getReader();
  for (;;) {
    const { value: frame, done } = await reader.read();
    if (done) return;
    if (frame.type === "delta" && lose > 0) {
      lose -= 1;
      postMessage({ lost: true });
    } else {
      if (frame.type === "key") postMessage({ keyframe: frame.data.byteLength });
      await writer.write(frame);
    }
  }
};

onmessage = async ({ data }) => {
  if (data.lose) lose = data.lose;
  if (data.keyframe) {
    try {
      await transformer.generateKeyFrame();
    } catch (error) {
      postMessage({ error: String(error) });
    }
  }
};
