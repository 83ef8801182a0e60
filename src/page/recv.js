// Source for `recv --view`: its Server-Sent Events (WHATWG HTML, section 9.2), and requests to it.

/** Delay before reconnecting after an HTTP error, which browsers do not retry themselves, ms. */
const RETRY_AFTER = 3000;

/** Posts JSON; throws the error message of the response if it fails. */
async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).catch(() => {
    throw new Error("orion-peer does not respond");
  });
  if (response.ok) return;
  const { message } = await response.json().catch(() => ({}));
  throw new Error(message ?? `HTTP ${response.status}`);
}

/** Shows the events of the receiver until it ends. */
export function start(view) {
  view.other = "phone";
  view.on.say = (text) => post("say", { text });
  view.on.keyframeNow = () => post("keyframe-request", {});
  listen(view);
}

function listen(view) {
  const events = new EventSource("events");
  const on = (name, act) => events.addEventListener(name, ({ data }) => act(JSON.parse(data)));

  on("hello", (hello) => {
    const { version, pair, device, signal, out } = hello;
    view.reset();
    view.enable(true);
    const as = pair ? `${device} of pair ${pair}` : device;
    view.about(`recv ${version}, ${as}, at ${signal}; saving keyframes to ${out}`);
    view.limit(hello.maxBytes);
    view.state("waiting for the first report");
  });
  on("keyframe", (keyframe) => view.keyframe(keyframe));
  on("report", (report) => {
    view.syncClock(report.at);
    view.report(report);
  });
  on("line", ({ text, at }) => view.line(text, at));
  on("text", ({ text, at }) => view.text(text, at));
  on("end", async ({ reason }) => {
    // The connection stays open until the last pictures have loaded, or the receiver closes it.
    events.onerror = () => events.close();
    view.end(`orion-peer has ended: ${reason}`);
    await view.pictures();
    events.close();
  });
  events.onerror = () => {
    view.enable(false);
    view.state("disconnected", "bad");
    view.banner("Lost the connection to orion-peer; reconnecting");
    if (events.readyState !== EventSource.CLOSED) return;
    setTimeout(() => listen(view), RETRY_AFTER);
  };
}
