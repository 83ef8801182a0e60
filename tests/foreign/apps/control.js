// The control channel of an app (wire contract): answers pings and texts, sends its own texts, and reports both. Runs in
// Node.js and on a page.

/** Interval between two texts of the app, ms. */
const SAY_EVERY = 500;

/** Serves `channel`, which has the interface of an RTCDataChannel (W3C webrtc-pc §6.2); `talks` if the app sends
 * its own messages over it. */
export function serve(channel, emit, talks) {
  let said = 0;
  let opened = false;
  let talk = null;
  const open = () => {
    if (opened) return;
    opened = true;
    emit("channel", { label: channel.label });
    if (!talks) return;
    talk = setInterval(() => {
      said += 1;
      try {
        channel.send(JSON.stringify({ t: "text", id: said, text: `text ${said}` }));
        emit("said", { id: said });
      } catch {
        // Closed in the meantime: the connection reports it.
        clearInterval(talk);
      }
    }, SAY_EVERY);
  };
  channel.onopen = open;
  channel.onclose = () => clearInterval(talk);
  channel.onmessage = ({ data }) => {
    const { t, id, ts, seq } = JSON.parse(data);
    if (t === "ping") channel.send(JSON.stringify({ t: "pong", id, ts }));
    if (t === "text") channel.send(JSON.stringify({ t: "ack", id }));
    if (t === "keyframe") emit("announced", { seq });
    else emit("heard", { what: t, id });
  };
  if (channel.readyState === "open") open();
}
