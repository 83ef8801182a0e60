// A worker between Chromium's encoder and its packetizer (W3C RTCRtpScriptTransform): loses pictures on
// request, as a network beyond repair would, and tells of each keyframe.

let lose = 0;

onrtctransform = async ({ transformer }) => {
  const reader = transformer.readable.getReader();
  const writer = transformer.writable.getWriter();
  for (;;) {
    const { value: frame, done } = await reader.read();
    if (done) return;
    if (frame.type === "key") postMessage({ keyframe: frame.data.byteLength });
    if (frame.type === "delta" && lose > 0) {
      lose -= 1;
      postMessage({ lost: frame.data.byteLength });
    } else {
      await writer.write(frame);
    }
  }
};

onmessage = ({ data }) => {
  lose = data.lose;
};
