// A worker between Chromium's depacketizer and its decoder: reports keyframes, and passes everything on.

onrtctransform = async ({ transformer }) => {
  const reader = transformer.readable.getReader();
  const writer = transformer.writable.getWriter();
  for (;;) {
    const { value: frame, done } = await reader.read();
    if (done) return;
    if (frame.type === "key") postMessage({ rtpTimestamp: frame.getMetadata().rtpTimestamp, bytes: frame.data.byteLength });
    await writer.write(frame);
  }
};
