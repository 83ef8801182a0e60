// Data channels other than the contract's, and no data channel, with `recv` and `send`.

import { check, openPage, pong, PHONE } from "../rig.js";
import { until } from "../process.js";
import { folder, pings, shown, stops, stored } from "./expect.js";

const CONTRACT = {};
const ANSWERED = "answered on it; keyframes, and pings on the contract's channel";

/** Channels opened in addition to the contract's; a ping on such a channel is answered there, or not at all. */
const kinds = [
  { name: "reliable", does: "reliable and ordered", init: {} },
  { name: "retransmits", does: "unordered, `maxRetransmits` 0", init: { ordered: false, maxRetransmits: 0 } },
  { name: "ordered_life", does: "ordered, `maxPacketLifeTime` 3000", init: { maxPacketLifeTime: 3000 } },
  { name: "label", does: "another label and protocol", init: { protocol: "chat" }, label: "telemetry" },
];

/** A ping on a channel of this kind is answered there. */
async function answered(page) {
  const found = await pong(page, "other", "on the other");
  check("its ping is answered there", found.on === "other", found.on);
}

/** A negotiated channel has no answer, because orion-peer does not open its half; messages on it are harmless. */
async function unheard(page) {
  await until("the negotiated channel to open", async () => (await page.call("channelState", "other")) === "open");
  await page.call("say", "other", { t: "ping", id: "unanswered", ts: 1 });
  await pong(page, "own", "answered");
  const received = (await page.get("controls")).filter((one) => one.on === "other");
  check("nothing arrives on the negotiated channel", received.length === 0, JSON.stringify(received));
}

/** Invalid control messages are ignored, as text and as bytes, and the channel keeps working. */
async function garbage(page) {
  await until("the channel to open", async () => (await page.call("channelState", "other")) === "open");
  for (const text of ["", "not JSON", "[]", '{"t":"ping"}', '{"t":"later"}', "\0".repeat(60_000)]) {
    for (const binary of [false, true]) await page.call("sayRaw", "other", text, { binary });
  }
  await answered(page);
}

function phoneRow({ name, does, channels, seen = ANSWERED, look, result, contract = true }) {
  const out = folder(name);
  return {
    name, does: `phone: ${does}`, ours: "recv", seen, result,
    open: () => openPage("phone"),
    peer: ["recv", "--out", out],
    async body(page, recv) {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE, channels });
      await stored(recv, out, 2, { announced: false });
      await look(page, recv);
      if (contract) await pings(page, recv);
      await stops(recv);
    },
  };
}

const other = ({ label, init }) => ({ name: "other", label, init });

/** The page as the Mac opens a channel in addition to its control channel, or none at all. */
function macRow({ name, does, channels, look }) {
  return {
    name, does: `Mac: ${does}`, ours: "send", seen: ANSWERED,
    open: () => openPage("mac"),
    peer: ["send", "--source", "pattern:320x240", "--interval", "0.3s"],
    async body(page, send) {
      await page.call("beMac", { iceServers: page.iceServers });
      await page.join();
      await shown(page, 2);
      for (const channel of channels) await page.call("openChannel", channel);
      await look(page, send);
      await pings(page, send);
      await stops(send);
    },
  };
}

/** Pings over our channel alone: the page has none. */
async function oursAlone(page, peer) {
  const found = await pong(page, "theirs", "on yours");
  check("a ping on our channel is answered there", found.on === "theirs");
  await page.control("our ping", (one) => one.t === "ping");
  check("its pings are answered", peer.code === undefined);
}

export const channelRows = [
  ...kinds.map((kind) => phoneRow({
    name: `channel_${kind.name}`, does: `a second channel, ${kind.does}`, channels: [CONTRACT, other(kind)], look: answered,
  })),
  macRow({ name: "channel_mac_reliable", does: "a second channel, reliable and ordered", channels: [CONTRACT, other(kinds[0])], look: answered }),
  macRow({ name: "channel_mac_retransmits", does: "a second channel, unordered, `maxRetransmits` 0", channels: [CONTRACT, other(kinds[1])], look: answered }),
  phoneRow({
    name: "channel_control_reliable", does: "its control channel reliable and ordered", channels: [{ init: {} }],
    look: () => {}, seen: "pings on both channels, keyframes",
  }),
  phoneRow({
    name: "channel_negotiated", does: "a negotiated channel (`negotiated: true, id: 101`) in addition", look: unheard,
    channels: [CONTRACT, { name: "other", label: "control", init: { negotiated: true, id: 101 } }],
    seen: "nothing arrives on it; keyframes, and pings on the contract's channel",
    result: "ignored: `orion-peer` opens channels only in-band",
  }),
  phoneRow({
    name: "channel_garbage", does: "invalid control messages, as text and as bytes", look: garbage,
    channels: [CONTRACT, { name: "other", init: {} }],
  }),
  phoneRow({
    name: "channel_none", does: "no data channel in its offer", channels: [], look: () => {}, contract: false,
    seen: "keyframes", result: "works, without control messages",
  }),
];
