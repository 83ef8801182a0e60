// Paths between the peers: only relays, or only IPv6, required by either peer.

import { until } from "../process.js";
import { check } from "../rig.js";
import { needsIpv6 } from "./expect.js";
import { mac } from "./mac.js";
import { phone } from "./phone.js";

/** Checks which of its local candidates Chromium uses. */
const uses = (what, fits) => async (page) => {
  const selected = await until("a selected pair", () => page.call("selected"));
  check(`Chromium uses ${what}`, fits(selected[0]), JSON.stringify(selected));
};
const relayed = uses("its relay", (local) => local.candidateType === "relay");
const relayedTcp = uses("its relay over TCP", (local) => local.candidateType === "relay" && local.relayProtocol === "tcp");
const ipv6 = uses("IPv6", (local) => local.address.includes(":"));

/** Checks that orion-peer uses its relayed candidate. */
const oursRelayed = (page, peer) => until("the relay in our live line", () => /connected · relay/.test(peer.stderr))
  .then(() => check(`${peer.name} is relayed`, true));

const both = (name, { does, phoneOptions = {}, macOptions = {}, args = [], more, flags }) => [
  phone({ name: `${name}_phone`, does, offer: phoneOptions, args, more, flags }),
  mac({ name: `${name}_mac`, does, answer: macOptions, show: args.length ? ` ${args.join(" ")}` : "", more, flags,
    args: ["--source", "pattern:320x240", "--interval", "0.3s", ...args] }),
];
const all = (name, { options = {}, ...rest }) => both(name, { phoneOptions: options, macOptions: options, ...rest });

const v6 = [
  ...all("ipv6", { does: "only IPv6 candidates, sent and accepted", options: { keep: "ipv6" }, more: ipv6 }),
  ...all("ipv6_half_trickle", { does: "only IPv6 candidates, half-trickle", options: { keep: "ipv6", halfTrickle: true }, more: ipv6 }),
  ...all("ipv6_ours", { does: "all candidates", args: ["--network", "udp6"], more: ipv6 }),
].map(needsIpv6);

export const pathRows = [
  ...all("relay", { does: "relay only", options: { policy: "relay" }, more: relayed }),
  ...all("relay_tcp", { does: "relay only, TURN over TCP", options: { policy: "relay", servers: "transport=tcp" }, more: relayedTcp }),
  ...all("relay_ours", { does: "all candidates", args: ["--ice-policy", "relay"], more: oursRelayed }),
  ...all("relay_both", { does: "relay only", options: { policy: "relay" }, args: ["--ice-policy", "relay"],
    more: async (page, peer) => {
      await relayed(page, peer);
      await oursRelayed(page, peer);
    } }),
  ...v6,
];
