// One call: Chromium as a phone with a photo every 3.5 s, `recv` as the Mac, and the measurements of both.

import path from "node:path";

import { until } from "../process.js";
import { openPage, scratch, startPeer } from "../rig.js";

const EVERY = 3500;
/** Shorter intervals would fill a link of 1 Mbit/s with pings alone. */
const PING_EVERY = 50;

/** Time without a keyframe after which a link is idle. */
const SETTLED = 1000;

/** Bytes of headers with a packet's payload: IPv4, UDP, SRTP's tag, RTP and its extension. */
const HEADERS = 20 + 8 + 10 + 12 + 8;
const PAYLOAD = 1140;

let calls = 0;

/** The `share` quantile of numbers; null without numbers. */
export const quantile = (values, share) => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] : null;
};

/** The minimum time from the first to the last packet of `bytes` at a rate in Mbit/s, ms. */
function least(bytes, rate) {
  if (!rate) return null;
  const packets = Math.ceil(bytes / PAYLOAD);
  return ((bytes + packets * HEADERS) * (packets - 1) / packets * 8) / (rate * 1e3);
}

/** Pings, each with the keyframe before it; `during` while that keyframe was in flight. */
function placed(pings, keyframes) {
  return pings.map(({ at, took }) => {
    const index = keyframes.findLastIndex((one) => one.sentAt <= at);
    const keyframe = keyframes[index];
    return {
      index, took, during: Boolean(keyframe) && at <= keyframe.receivedAt,
      idle: Boolean(keyframe) && at > keyframe.receivedAt + SETTLED,
    };
  });
}

/** Makes one call, with `unit`, if given, in place of the encoder's output; returns the values for the table. */
export async function call({ link, setting, photo, unit, count }) {
  calls += 1;
  const out = path.join(scratch, `call-${calls}`);
  const page = await openPage("phone");
  const recv = startPeer(["recv", "--out", out, "--format", "h264", ...link.args, ...setting.args]);
  try {
    await page.join();
    await page.call("bePhotographer", {
      iceServers: page.iceServers, received: setting.received, url: photo, width: 1280, height: 720, every: EVERY, pingEvery: PING_EVERY, unit: unit?.url,
    });
    let changed = !link.change;
    await until("the keyframes", () => {
      const received = recv.events("keyframe").length;
      if (!changed && received >= 2) {
        changed = true;
        recv.type(link.change);
      }
      if (recv.code !== undefined) throw new Error(`recv ended with ${recv.code}: ${recv.stderr}`);
      return received >= count;
    });
    // Wait for the pings after the last keyframe.
    await new Promise((resolve) => setTimeout(resolve, EVERY - 500));
    const [connectedAt, sent, pings, rates] = [
      await page.get("connectedAt"), await page.get("sent"), await page.get("pings"),
      await page.call("stats", "outbound-rtp", ["targetBitrate", "retransmittedPacketsSent", "framesEncoded"]),
    ];
    await recv.stop();
    return measured({ link, setting, unit, count, connectedAt, sent, pings, recv, rates });
  } finally {
    await page.close();
    await recv.stop();
  }
}

function measured({ link, setting, unit, count, connectedAt, sent, pings, recv, rates }) {
  const keyframes = recv.events("keyframe").slice(0, count).map(({ bytes, receivedAt, receiveMs, retransmitted, packets }) => {
    const at = receivedAt * 1e3;
    const handed = sent.filter((one) => one.at <= at && one.bytes === bytes).at(-1);
    return { bytes, receivedAt: at, spread: receiveMs, sentAt: handed?.at ?? at - receiveMs, retransmitted, packets };
  });
  const all = placed(pings, keyframes);
  const p95 = (chosen) => quantile(all.filter(chosen).filter((one) => one.took !== null).map((one) => one.took), 0.95);
  const dropped = recv.events("simulatedLink").at(-1)?.received.overflowed ?? 0;
  return {
    link: link.title, setting: setting.name, own: !unit, count, keyframes, dropped, rates,
    firstAfter: keyframes.length ? keyframes[0].receivedAt - connectedAt : null,
    sent: sent.length,
    least: keyframes.length ? least(keyframes.at(-1).bytes, link.rate) : null,
    pings: {
      idle: p95((one) => one.idle), during: p95((one) => one.during),
      byKeyframe: keyframes.map((_, index) => p95((one) => one.index === index)),
      lost: all.filter((one) => one.took === null).length, count: all.length,
    },
  };
}
