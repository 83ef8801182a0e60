// Command pion is the phone or the Mac on Pion, as an engine for engine.js, which describes the protocol on stdin and
// stdout.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	// Debian's paths have no /v3, and GOPATH mode needs none.
	"github.com/pion/webrtc"
	"github.com/pion/webrtc/pkg/media"
)

const (
	typeMask = 0x1f
	typeSPS  = 7
	typeSTAP = 24
)

// maxUnits is the number of access units that wait for retransmissions; older ones are dropped.
const maxUnits = 16

// replayWindow is the number of packets, counted back from the newest, that Pion requests again (interceptor/pkg/nack).
const replayWindow = 512

// h264 is the only codec: RTX is one of the default codecs, but Pion 3.1 discards what it receives on an RTX stream
// (receiveForRtx in rtpreceiver.go), so that no retransmission would arrive.
var h264 = webrtc.RTPCodecParameters{
	RTPCodecCapability: webrtc.RTPCodecCapability{
		MimeType:    webrtc.MimeTypeH264,
		ClockRate:   90000,
		SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
	},
	PayloadType: 102,
}

// object is a JSON object.
type object map[string]interface{}

// out is stdout. Pion calls back on many goroutines.
var out struct {
	sync.Mutex
	*json.Encoder
}

func say(message object) {
	out.Lock()
	defer out.Unlock()
	if out.Encode(message) != nil {
		os.Exit(1) // The parent process has ended.
	}
}

// request is a line on stdin.
type request struct {
	Do string `json:"do"`

	// connect
	Role       string             `json:"role"`
	ICEServers []webrtc.ICEServer `json:"iceServers"`
	Unit       string             `json:"unit"`
	Every      int                `json:"every"`
	Relay      bool               `json:"relay"`

	Restart bool   `json:"restart"` // offer
	Type    string `json:"type"`    // remote
	SDP     string `json:"sdp"`
	webrtc.ICECandidateInit
	Channel int    `json:"channel"` // say
	Text    string `json:"text"`
}

type engine struct {
	pc      *webrtc.PeerConnection
	unit    []byte
	every   time.Duration
	stopped atomic.Bool

	mu       sync.Mutex
	channels []*webrtc.DataChannel // The index of a channel is its number.
}

func newEngine(r request) (*engine, error) {
	e := &engine{every: time.Duration(r.Every) * time.Millisecond}
	if r.Unit != "" {
		unit, err := os.ReadFile(r.Unit)
		if err != nil {
			return nil, err
		}
		e.unit = unit
	}

	mediaEngine := &webrtc.MediaEngine{}
	if err := mediaEngine.RegisterCodec(h264, webrtc.RTPCodecTypeVideo); err != nil {
		return nil, err
	}
	interceptors := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(mediaEngine, interceptors); err != nil {
		return nil, err
	}
	settings := webrtc.SettingEngine{}
	// Pion omits loopback by default, and these tests must use nothing else.
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetIPFilter(net.IP.IsLoopback)
	// The default of 64 (session_srtp.go) drops retransmissions of the first packets of a keyframe, which has about 85.
	settings.SetSRTPReplayProtectionWindow(replayWindow)

	configuration := webrtc.Configuration{ICEServers: r.ICEServers}
	if r.Relay {
		configuration.ICETransportPolicy = webrtc.ICETransportPolicyRelay
	}
	api := webrtc.NewAPI(
		webrtc.WithMediaEngine(mediaEngine),
		webrtc.WithInterceptorRegistry(interceptors),
		webrtc.WithSettingEngine(settings),
	)
	pc, err := api.NewPeerConnection(configuration)
	if err != nil {
		return nil, err
	}
	e.pc = pc
	pc.OnICECandidate(func(candidate *webrtc.ICECandidate) {
		if candidate != nil {
			say(object{"candidate": candidate.ToJSON()})
		}
	})
	pc.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		say(object{"state": state.String()})
	})
	pc.OnDataChannel(e.listen)
	pc.OnTrack(receive)
	if r.Role == "phone" {
		return e, e.addMedia()
	}
	return e, nil
}

// addMedia adds the phone's channel and its video.
func (e *engine) addMedia() error {
	ordered, lifetime := false, uint16(100)
	channel, err := e.pc.CreateDataChannel("control", &webrtc.DataChannelInit{
		Ordered:           &ordered,
		MaxPacketLifeTime: &lifetime,
	})
	if err != nil {
		return err
	}
	e.listen(channel)

	track, err := webrtc.NewTrackLocalStaticSample(h264.RTPCodecCapability, "video", "phone")
	if err != nil {
		return err
	}
	transceiver, err := e.pc.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{
		Direction: webrtc.RTPTransceiverDirectionSendonly,
	})
	if err != nil {
		return err
	}
	go readRTCP(transceiver.Sender().Read)
	go e.capture(track)
	return nil
}

// readRTCP reads until the end of the connection: interceptors get only RTCP packets that are read.
func readRTCP(read func([]byte) (int, interceptor.Attributes, error)) {
	for buffer := make([]byte, 1500); ; {
		if _, _, err := read(buffer); err != nil {
			return
		}
	}
}

// capture sends the phone's picture repeatedly while connected.
func (e *engine) capture(track *webrtc.TrackLocalStaticSample) {
	for range time.Tick(e.every) {
		if e.stopped.Load() || e.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
			continue
		}
		if err := track.WriteSample(media.Sample{Data: e.unit, Duration: e.every}); err != nil {
			say(object{"error": err.Error()})
			continue
		}
		say(object{"picture": true})
	}
}

// listen reports the messages of a channel.
func (e *engine) listen(channel *webrtc.DataChannel) {
	e.mu.Lock()
	number := len(e.channels)
	e.channels = append(e.channels, channel)
	e.mu.Unlock()
	channel.OnOpen(func() {
		say(object{"opened": number, "label": channel.Label()})
	})
	channel.OnMessage(func(message webrtc.DataChannelMessage) {
		say(object{"heard": string(message.Data), "channel": number})
	})
}

// unit holds the packets of an access unit, by sequence number.
type unit struct {
	packets map[uint16]*rtp.Packet
	ended   bool
	last    uint16
	done    bool
}

// startsUnit reports whether a payload starts with an SPS, as keyframes do.
func startsUnit(payload []byte) bool {
	if len(payload) > 3 && payload[0]&typeMask == typeSTAP {
		payload = payload[3:]
	}
	return len(payload) > 0 && payload[0]&typeMask == typeSPS
}

// join returns the access unit, or nil if packets are missing.
func (u *unit) join() ([]byte, error) {
	if !u.ended {
		return nil, nil
	}
	first := u.last
	for ; ; first-- {
		packet := u.packets[first]
		if packet == nil {
			return nil, nil
		}
		if startsUnit(packet.Payload) {
			break
		}
	}
	var depacketizer codecs.H264Packet
	var joined []byte
	for at := first; at != u.last+1; at++ {
		part, err := depacketizer.Unmarshal(u.packets[at].Payload)
		if err != nil {
			return nil, err
		}
		joined = append(joined, part...)
	}
	return joined, nil
}

// receive reports complete access units. Retransmitted packets arrive later than their successors.
func receive(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
	go readRTCP(receiver.Read)
	units := map[uint32]*unit{}
	var order []uint32
	for {
		packet, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		if len(packet.Payload) == 0 {
			continue
		}
		u := units[packet.Timestamp]
		if u == nil {
			if len(order) == maxUnits {
				delete(units, order[0])
				order = order[1:]
			}
			u = &unit{packets: map[uint16]*rtp.Packet{}}
			units[packet.Timestamp] = u
			order = append(order, packet.Timestamp)
		}
		if u.done {
			continue
		}
		u.packets[packet.SequenceNumber] = packet
		if packet.Marker {
			u.ended, u.last = true, packet.SequenceNumber
		}
		joined, err := u.join()
		if err != nil {
			say(object{"error": err.Error()})
		}
		if joined != nil {
			u.done, u.packets = true, nil
			say(object{"unit": hex.EncodeToString(joined), "rtpTimestamp": packet.Timestamp})
		}
	}
}

// describe reports a description and sets it: candidates follow.
func (e *engine) describe(description webrtc.SessionDescription, err error) error {
	if err != nil {
		return err
	}
	say(object{"description": description})
	return e.pc.SetLocalDescription(description)
}

func (e *engine) remote(kind, sdp string) error {
	description := webrtc.SessionDescription{Type: webrtc.NewSDPType(kind), SDP: sdp}
	if err := e.pc.SetRemoteDescription(description); err != nil {
		return err
	}
	if description.Type == webrtc.SDPTypeOffer {
		return e.describe(e.pc.CreateAnswer(nil))
	}
	say(object{"taken": true})
	return nil
}

func (e *engine) say(number int, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number < 0 || number >= len(e.channels) {
		return errors.New("no such channel")
	}
	return e.channels[number].SendText(text)
}

func (e *engine) do(r request) error {
	switch r.Do {
	case "offer":
		return e.describe(e.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: r.Restart}))
	case "remote":
		return e.remote(r.Type, r.SDP)
	case "candidate":
		return e.pc.AddICECandidate(r.ICECandidateInit)
	case "say":
		return e.say(r.Channel, r.Text)
	case "stop":
		e.stopped.Store(true)
		return nil
	}
	return fmt.Errorf("no such request: %s", r.Do)
}

func main() {
	out.Encoder = json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr // Pion logs to stdout.
	lines := bufio.NewScanner(os.Stdin)
	var e *engine
	for lines.Scan() {
		var r request
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			if e == nil {
				e, err = newEngine(r)
			} else {
				err = e.do(r)
			}
		}
		if err != nil {
			say(object{"error": err.Error()})
		}
	}
}
