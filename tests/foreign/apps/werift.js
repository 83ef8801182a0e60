// werift 0.25.2: WebRTC written in TypeScript.
//
// An offer with another fingerprint on an established connection is answered, but nothing more is received. It sends
// SCTP's INIT only when it is ICE controlling, regardless of its DTLS role.

import { readFileSync } from "node:fs";

import { MediaStreamTrack, RTCPeerConnection, RtpHeader, RtpPacket, useH264, useNACK, usePLI } from "werift";

import { emit, options, run } from "./node.js";
import { EVERY, KeyframeCounter, payloads } from "./rtp.js";

const { unit } = options();

const newConnection = (iceServers) => new RTCPeerConnection({
  iceServers: iceServers.flatMap((server) => [server.urls].flat().map((urls) => ({ ...server, urls }))),
  codecs: {
    video: [useH264({
      parameters: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
      rtcpFeedback: [useNACK(), usePLI()],
    })],
  },
  // It omits loopback by default.
  iceAdditionalHostAddresses: ["127.0.0.1"],
});

function watch({ track }) {
  const counter = new KeyframeCounter(emit);
  track.onReceiveRtp.subscribe(({ header, payload }) => counter.onPacket({
    marker: header.marker, sequence: header.sequenceNumber, timestamp: header.timestamp, payload,
  }));
}

function capture(pc) {
  const track = new MediaStreamTrack({ kind: "video" });
  pc.addTransceiver(track, { direction: "sendonly" });
  const parts = payloads(readFileSync(unit));
  let sequenceNumber = 0;
  const timer = setInterval(() => {
    if (pc.connectionState !== "connected") return;
    const timestamp = Math.floor(performance.now() * 90) >>> 0;
    parts.forEach((payload, index) => {
      const marker = index === parts.length - 1;
      sequenceNumber = (sequenceNumber + 1) & 0xffff;
      track.writeRtp(new RtpPacket(new RtpHeader({ marker, sequenceNumber, timestamp, payloadType: 96 }), payload));
    });
    emit("picture");
  }, EVERY);
  return () => clearInterval(timer);
}

await run({ newConnection, watch, capture });
