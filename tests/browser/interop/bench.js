// bench against Chromium: measuring it as the phone and as the Mac, and answering it with `bench --respond`.

import { until } from "../process.js";
import { PHONE, check, openPage, pingBoth } from "../rig.js";
import { stops } from "./expect.js";

const LOAD = ["--connections", "1", "--warmup", "0", "--pings", "50", "--keyframes", "3", "--interval", "500ms"];

function measured(result, code, extra) {
  const { connections, rttMs } = result;
  check("bench ends with 0", code === 0, `code ${code}`);
  check("the connection succeeded", connections.succeeded === 1, JSON.stringify(connections.byType));
  check("Chromium's pongs are measured", rttMs.count > 0, `${rttMs.count} of ${rttMs.sent}, p50 ${rttMs.p50} ms`);
  extra(result);
}

const unmeasured = (result, what) => result.notMeasured.some((one) => one.what.split(", ").includes(what));

export const benchRows = [
  {
    name: "bench_recv", does: "phone: is measured", ours: "bench --role recv",
    seen: "pings, complete keyframes; unreported values are null",
    open: () => openPage("phone"),
    peer: ["bench", "--role", "recv", ...LOAD],
    async body(page, bench) {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE });
      const code = await bench.ended();
      measured(JSON.parse(bench.stdout), code, (result) => {
        const { keyframes } = result;
        check("its keyframes arrived complete", keyframes.received === 3, `${keyframes.received}, mean ${keyframes.bytes.mean} bytes`);
        check("unreported values are null", keyframes.intact === null && keyframes.latencyMs.count === 0
          && unmeasured(result, "keyframes.intact"), result.notMeasured.map((one) => one.what).join(", "));
      });
    },
  },
  {
    name: "bench_send", does: "Mac: is measured", ours: "bench --role send",
    seen: "pings, keyframes decoded; unreported values are null",
    open: () => openPage("mac"),
    peer: ["bench", "--role", "send", ...LOAD],
    async body(page, bench) {
      await page.call("beMac", { iceServers: page.iceServers });
      await page.join();
      const decoded = until("the decoded keyframes", async () =>
        (await page.call("stats", "inbound-rtp", ["keyFramesDecoded"])).keyFramesDecoded >= 3);
      const code = await bench.ended();
      measured(JSON.parse(bench.stdout), code, (result) => {
        check("its keyframes were sent", result.keyframes.sent === 3, JSON.stringify(result.keyframes));
        check("unreported values are null", result.keyframes.intact === null && unmeasured(result, "keyframes.intact"),
          result.notMeasured.map((one) => one.what).join(", "));
      });
      check("Chromium decodes each", await decoded);
    },
  },
  {
    name: "bench_respond", does: "phone: measures and announces its keyframes", ours: "bench --respond",
    seen: "pings answered, keyframes counted as intact",
    open: () => openPage("phone"),
    peer: ["bench", "--respond"],
    async body(page, respond) {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE, announce: true });
      await pingBoth(page);
      await until("3 announced keyframes", async () => {
        await page.call("keyframe");
        return (await page.get("transformed")).length >= 3;
      });
      await page.call("leave", "done");
      const line = await until("the end of the connection", () => respond.stdout.split("\n").find((one) => /"ended"/.test(one)));
      const { keyframes, intact } = JSON.parse(line);
      check("most keyframes arrived intact", intact >= 2 && intact === keyframes, line);
      await stops(respond);
    },
  },
];
