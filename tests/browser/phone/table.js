// The measurements of the calls, as lines while they run and as a table for the guide.

const whole = (number) => (number === null || number === undefined ? "-" : number.toFixed(0));
const list = (numbers) => numbers.map(whole).join(" ");

/** One call in two lines. */
export function print({ link, setting, own, keyframes, dropped, firstAfter, sent, least, pings, rates }) {
  const sizes = own ? ` KB ${keyframes.map((one) => (one.bytes / 1e3).toFixed(0)).join(" ")}` : "";
  console.log(`${link}, ${own ? "own encoder" : "fixed units"}, ${setting}: first after ${whole(firstAfter)} ms; ` +
    `ms ${list(keyframes.map((one) => one.spread))} (minimum ${whole(least)})${sizes}; ` +
    `ping p95 idle ${whole(pings.idle)}, during ${whole(pings.during)}, by keyframe ${list(pings.byKeyframe)}; ` +
    `lost pings ${pings.lost} of ${pings.count}; dropped ${dropped}; ` +
    `resent ${rates.retransmittedPacketsSent}; target ${whole(rates.targetBitrate / 1e3)} kbit/s; ${sent} encoded`);
}

/** Markdown: a row for each link and setting. */
export function markdown(results) {
  const rows = [];
  const kinds = [[false, "100 KB access units instead of the encoder's output"], [true, "the encoder's own keyframes"]];
  for (const [own, title] of kinds) {
    const chosen = results.filter((one) => one.own === own);
    if (chosen.length === 0) continue;
    rows.push(`${title}:`, "");
    rows.push("| link | `--phone-bitrate` | connection to first keyframe, ms | first to last packet of each keyframe, ms | link minimum, ms | sizes, KB | ping p95 idle, ms | during keyframes, ms | dropped |");
    rows.push("|---|---|---|---|---|---|---|---|---|");
    for (const { link, setting, keyframes, dropped, firstAfter, least, pings } of chosen) {
      rows.push(`| ${[link, `\`${setting}\``, whole(firstAfter), list(keyframes.map((one) => one.spread)), whole(least),
        list(keyframes.map((one) => one.bytes / 1e3)), whole(pings.idle), whole(pings.during), dropped].join(" | ")} |`);
    }
    rows.push("");
  }
  return rows.join("\n");
}
