"""GStreamer's webrtcbin with libnice, as an engine for `engine.js`, which describes the protocol on stdin and stdout.

It runs on Debian's python3, because PyGObject is a Debian package.
"""

import json
import os
import sys
import threading
import urllib.parse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstApp, GstSdp, GstWebRTC  # noqa: E402

VIDEO = (
    "appsrc name=source is-live=true format=time do-timestamp=true caps=video/x-h264,stream-format=byte-stream,alignment=au,"
    "profile=constrained-baseline,level=(string)3.1"
    " ! rtph264pay config-interval=0 aggregate-mode=none mtu=1200"
    " ! application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,"
    "packetization-mode=(string)1,profile-level-id=(string)42e01f,rtcp-fb-nack=true,rtcp-fb-nack-pli=true ! webrtc."
)
DEPACKETIZE = (
    "rtph264depay name=depay ! video/x-h264,stream-format=byte-stream,alignment=au"
    " ! appsink name=units emit-signals=true sync=false async=false"
)
OPTIONS = "options,ordered=(boolean)false,max-packet-lifetime=(int)100"


# Signals are emitted on threads of GStreamer.
speaking = threading.Lock()


def say(**what):
    with speaking:
        print(json.dumps(what), flush=True)


def turn_url(server, url):
    """`turn:HOST:PORT?transport=` and its credential in the format of webrtcbin."""
    scheme, rest = url.split(":", 1)
    quoted = [urllib.parse.quote(server[key], safe="") for key in ("username", "credential")]
    return f"{scheme}://{quoted[0]}:{quoted[1]}@{rest}"


class Engine:
    def __init__(self, role, iceServers, unit, every, relay, **_):
        self.phone, self.every, self.channels = role == "phone", every, {}
        self.unit = open(unit, "rb").read() if unit else b""
        self.pipeline = Gst.Pipeline()
        webrtc = "webrtcbin name=webrtc bundle-policy=max-bundle latency=1000"
        # The default latency of 200 ms is too short for retransmissions on a busy machine.
        elements = Gst.parse_bin_from_description(f"{webrtc} {VIDEO if self.phone else ''}", False)
        self.pipeline.add(elements)
        self.webrtc = elements.get_by_name("webrtc")
        if relay:
            self.webrtc.set_property("ice-transport-policy", GstWebRTC.WebRTCICETransportPolicy.RELAY)
        # libnice omits loopback, and these tests must use nothing else.
        # It is the agent's only owner: 1.22 hands it out as a floating reference.
        self.ice = self.webrtc.get_property("ice-agent")
        self.ice.emit("add-local-ip-address", "127.0.0.1")
        for server in iceServers:
            urls = server["urls"] if isinstance(server["urls"], list) else [server["urls"]]
            for url in urls:
                if url.startswith("turn"):
                    self.webrtc.emit("add-turn-server", turn_url(server, url))
        self.webrtc.connect("on-ice-candidate", self.on_candidate)
        self.webrtc.connect("on-data-channel", lambda _, channel: self.listen(channel))
        self.webrtc.connect("on-new-transceiver", lambda _, transceiver: transceiver.set_property("do-nack", True))
        self.webrtc.connect("pad-added", self.on_pad)
        self.webrtc.connect("notify::connection-state", self.on_state)
        if self.phone:
            transceiver = self.webrtc.emit("get-transceiver", 0)
            transceiver.set_property("direction", GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY)
            transceiver.set_property("do-nack", True)
        self.pipeline.set_state(Gst.State.PLAYING)
        if self.phone:
            self.listen(self.webrtc.emit("create-data-channel", "control", Gst.Structure.new_from_string(OPTIONS)))
            GLib.timeout_add(self.every, self.capture)

    def connected(self):
        return self.webrtc.get_property("connection-state") == GstWebRTC.WebRTCPeerConnectionState.CONNECTED

    def on_state(self, *_):
        say(state=self.webrtc.get_property("connection-state").value_nick)

    def on_candidate(self, _, line, candidate):
        if candidate:
            say(candidate={"candidate": candidate, "sdpMLineIndex": line, "sdpMid": None})

    def on_pad(self, _, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        sink = Gst.parse_bin_from_description(DEPACKETIZE, True)
        sink.get_by_name("units").connect("new-sample", self.on_unit)
        self.webrtc.get_parent().add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))

    def on_unit(self, sink):
        buffer = sink.emit("pull-sample").get_buffer()
        say(unit=buffer.extract_dup(0, buffer.get_size()).hex())
        return Gst.FlowReturn.OK

    def capture(self):
        if self.unit and self.connected():
            self.pipeline.get_by_name("source").emit("push-buffer", Gst.Buffer.new_wrapped(self.unit))
            say(picture=True)
        return True

    def listen(self, channel):
        label, number = channel.get_property("label"), len(self.channels)
        self.channels[number] = channel
        channel.connect("on-open", lambda _: say(opened=number, label=label))
        channel.connect("on-message-string", lambda _, text: say(heard=text, channel=number))
        if channel.get_property("ready-state") == GstWebRTC.WebRTCDataChannelState.OPEN:
            say(opened=number, label=label)

    def describe(self, what):
        """Creates an offer or an answer and sets it."""

        def done(promise, *_):
            reply = promise.get_reply()
            if reply is None or (description := reply.get_value(what)) is None:
                return say(error=f"no {what}: {reply.get_value('error').message if reply else 'no reply'}")
            self.webrtc.emit("set-local-description", description, None)
            say(description={"type": what, "sdp": description.sdp.as_text()})

        self.webrtc.emit(f"create-{what}", None, Gst.Promise.new_with_change_func(done, None))

    def remote(self, kind, sdp):
        _, message = GstSdp.SDPMessage.new_from_text(sdp)
        types = {"offer": GstWebRTC.WebRTCSDPType.OFFER, "answer": GstWebRTC.WebRTCSDPType.ANSWER}
        description = GstWebRTC.WebRTCSessionDescription.new(types[kind], message)

        def done(promise, *_):
            reply = promise.get_reply()
            if reply is not None and reply.has_field("error"):
                say(error=reply.get_value("error").message)
            elif kind == "offer":
                self.describe("answer")
            else:
                say(taken=True)

        self.webrtc.emit("set-remote-description", description, Gst.Promise.new_with_change_func(done, None))

    def asked(self, request):
        do = request["do"]
        if do == "offer" and request["restart"]:
            say(error="GStreamer 1.22 does not restart ICE")
        elif do == "offer":
            self.describe("offer")
        elif do == "remote":
            self.remote(request["type"], request["sdp"])
        elif do == "candidate":
            self.webrtc.emit("add-ice-candidate", request.get("sdpMLineIndex") or 0, request["candidate"])
        elif do == "stop":
            self.unit = None
        elif do == "say":
            self.channels[request["channel"]].emit("send-string", request["text"])


def read():
    engine = None

    def obey(request):
        nonlocal engine
        try:
            if engine is None:
                engine = Engine(**request)
            else:
                engine.asked(request)
        except Exception as error:  # Any error of the stack is reported to the test.
            say(error=repr(error))

    for line in sys.stdin:
        GLib.idle_add(lambda request: obey(request), json.loads(line))
    os._exit(0)


Gst.init(None)
if sys.argv[1:] == ["--version"]:
    print(Gst.version_string())
else:
    main = GLib.MainLoop()
    threading.Thread(target=read, daemon=True).start()
    main.run()
