// werift 0.25.2: WebRTC written in TypeScript.
//
// An offer with another fingerprint on a connection that is up is answered, and nothing more is received. As ICE
// controlled side it waits for the other's SCTP INIT, and rtc 0.21.1 waits for that of the DTLS client, which werift is
// when it answers: towards `send` its data channel never opens, while media flow.

import { readFileSync } from "node:fs";

import { MediaStreamTrack, RTCPeerConnection, RtpHeader, RtpPacket, useH264 } from "werift";
import WebSocket from "ws";

import { emit, obey, options } from "./node.js";
import { Room } from "./room.js";
import { KeyframeCounter, payloads } from "./rtp.js";
import { App } from "./w3c.js";

const { api, role, answerAfter, unit } = options();

const newConnection = (iceServers) => new RTCPeerConnection({
  iceServers: iceServers.flatMap((server) => [server.urls].flat().map((urls) => ({ ...server, urls }))),
  codecs: { video: [useH264({ parameters: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f" })] },
  // It leaves loopback out by itself.
  iceAdditionalHostAddresses: ["127.0.0.1"],
});

function watch({ track }) {
  const counter = new KeyframeCounter(emit);
  track.onReceiveRtp.subscribe(({ header, payload }) => counter.onPacket({
    marker: header.marker, sequence: header.sequenceNumber, timestamp: header.timestamp, payload,
  }));
}

/** One picture a second. */
function capture(pc) {
  const track = new MediaStreamTrack({ kind: "video" });
  pc.addTransceiver(track, { direction: "sendonly" });
  const parts = payloads(readFileSync(unit));
  let sequenceNumber = 0;
  setInterval(() => {
    const timestamp = Math.floor(performance.now() * 90) >>> 0;
    parts.forEach((payload, index) => {
      const marker = index === parts.length - 1;
      sequenceNumber = (sequenceNumber + 1) & 0xffff;
      track.writeRtp(new RtpPacket(new RtpHeader({ marker, sequenceNumber, timestamp, payloadType: 96 }), payload));
    });
  }, 1000);
}

const app = new App({ role, answerAfter, newConnection, watch, capture, emit });
const room = new Room({
  api, device: role, WebSocket, emit,
  cut: (socket) => socket.terminate(),
  onMessage: (message) => app.onMessage(message),
});
obey({
  drop: (ms) => room.drop(ms),
  quit: () => {
    room.leave();
    setTimeout(() => process.exit(0), 200);
  },
});
await app.start(room);
