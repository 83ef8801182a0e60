//! The kernel lab: its rules as text, and real netfilter NATs in network namespaces, whose behavior is
//! measured with coturn's own programs. Linux with `ip`, `nft` and coturn only.
//!
//! Rules are compared with `tests/it/data/nft/*.nft`; `ORION_UPDATE_SNAPSHOTS=1` writes these files again.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use orion_peer::{
    lab::matrix::KernelBackend,
    nat::{Behaviour, Layer, LinkSettings, Profile},
    netns::{
        CoturnOptions, Lab, LabPlan, Location, NetnsError, NetworkPlan, SERVER,
        rules::{self, rules},
        topology::Topology,
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::run::{self, HANG};

const ORION_PEER: &str = env!("CARGO_BIN_EXE_orion-peer");

fn profile(text: &str) -> Profile {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn layer(text: &str) -> Layer {
    profile(text).layers[0]
}

fn plan(a: &str, b: &str) -> LabPlan {
    let network = |text| NetworkPlan { profile: profile(text), ..NetworkPlan::default() };
    let orion_peer = Some(ORION_PEER.into());
    LabPlan { a: network(a), b: network(b), seed: 1, orion_peer, ..LabPlan::default() }
}

fn start(plan: &LabPlan) -> Lab {
    Lab::start(plan).unwrap_or_else(|error| panic!("{error}\n  try: {}", error.remedy()))
}

fn output(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Every layer that has a name, and some with options.
fn layers() -> Vec<String> {
    let pairs = Behaviour::ALL
        .into_iter()
        .flat_map(|m| Behaviour::ALL.map(|f| format!("{}m-{}f", m.initials(), f.initials())));
    let more = [
        "firewall",
        "udp-blocked",
        "sym-sequential",
        "eim-eif:ports=random",
        "fullcone:hairpin",
        "addr:hairpin",
        "port:hairpin",
        "apdm-eif:hairpin",
        "apdm-eif:ports=sequential:hairpin",
        "port:timeout=30s",
    ];
    pairs.chain(more.map(str::to_owned)).collect()
}

/// The contents of the file for these rules.
fn shown(rules: &rules::Rules) -> String {
    let mut text = rules.nft.clone();
    for (file, value) in &rules.sysctls {
        writeln!(text, "# {file} = {value}").unwrap();
    }
    text
}

#[test]
fn rules_match_their_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/nft");
    let update = std::env::var_os("ORION_UPDATE_SNAPSHOTS").is_some();
    let mut different = Vec::new();
    for name in layers() {
        let text = shown(&rules(&layer(&name), Ipv4Addr::new(203, 0, 113, 2)).unwrap());
        let path = dir.join(format!("{}.nft", name.replace([':', '='], "-")));
        if update {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            different.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), layers().len(), "files without a layer");
    assert!(
        different.is_empty(),
        "rules differ (ORION_UPDATE_SNAPSHOTS=1 writes them again):\n{}",
        different.join("\n")
    );
}

#[test]
fn unsupported_nats_are_rejected_with_the_reason() {
    for (name, why) in [
        ("port:ports=sequential", "sequential ports require"),
        ("adm-adf:ports=sequential", "sequential ports require"),
        ("sym:ports=preserving", "endpoint-independent mapping"),
        ("adm-eif:ports=preserving", "endpoint-independent mapping"),
        ("sym:hairpin", "too late"),
        ("addr:ports=random:hairpin", "too late"),
        ("port:timeout=1.5s", "whole seconds"),
        ("firewall:timeout=200ms", "whole seconds"),
    ] {
        let error = rules(&layer(name), SERVER).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(&format!("`{}`", layer(name))), "{error}");
        assert!(NetnsError::from(error).remedy().contains("simulated lab"));
    }
    let shared = LabPlan { shared: true, ..plan("port", "sym") };
    let error = Topology::new(&shared).unwrap_err();
    assert!(matches!(error, NetnsError::TwoProfiles { .. }), "{error}");
}

#[test]
fn networks_have_realistic_addresses() {
    let peers = |a: &str, b: &str| {
        Topology::new(&plan(a, b))
            .unwrap()
            .attachments
            .map(|attachments| attachments[0].address.to_string())
    };
    assert_eq!(peers("port", "sym"), ["192.168.1.2", "192.168.2.2"]);
    assert_eq!(peers("none", "none"), ["203.0.113.2", "203.0.113.3"]);
    assert_eq!(peers("firewall", "udp-blocked"), ["198.51.100.2", "192.0.2.2"]);
    assert_eq!(peers("firewall+port", "port+sym"), ["192.168.1.2", "192.168.2.2"]);
    let lab = Topology::new(&plan("port+sym", "none")).unwrap();
    let names: Vec<&str> = lab.namespaces.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["internet", "a2", "a1", "a", "b"]);
    assert!(lab.namespaces[2].ip.contains("addr add 100.64.1.2/24 dev wan"), "{lab:?}");
}

/// The mapping and filtering behavior according to coturn's `turnutils_natdiscovery`.
fn discovered(lab: &Lab) -> (Option<Behaviour>, Option<Behaviour>) {
    let ask = |what: &str| {
        let mut command = lab.command(Location::A, "turnutils_natdiscovery");
        command.arg(what).arg(SERVER.to_string());
        output(command)
    };
    let behaviour = |text: &str, kind: &str| {
        let names = [
            ("Endpoint Independent", Behaviour::EndpointIndependent),
            ("Address Dependent", Behaviour::AddressDependent),
            ("Address and Port Dependent", Behaviour::AddressAndPortDependent),
        ];
        let found =
            names.iter().find(|(name, _)| text.contains(&format!("NAT with {name} {kind}")));
        found.map(|(_, behaviour)| *behaviour)
    };
    let (mapping, filtering) = (ask("-m"), ask("-f"));
    println!("{mapping}{filtering}");
    (behaviour(&mapping, "Mapping"), behaviour(&filtering, "Filtering"))
}

fn each_nat_behaves_like_its_profile(user_namespace: bool) {
    let mut wrong = Vec::new();
    let stacks = ["port+port", "port+sym", "fullcone+port"].map(str::to_owned);
    for name in layers().into_iter().chain(stacks).filter(|name| name != "udp-blocked") {
        let lab = start(&LabPlan { user_namespace, ..plan(&name, "none") });
        let _coturn = lab
            .coturn(&CoturnOptions::default())
            .unwrap_or_else(|error| panic!("{error}\n  try: {}", error.remedy()));
        // A port that stays the same means endpoint-independent mapping, translated or not.
        let mapping = profile(&name).mapping().unwrap_or(Behaviour::EndpointIndependent);
        let expected = (Some(mapping), profile(&name).filtering());
        let found = discovered(&lab);
        if found != expected {
            wrong.push(format!("{name}: {expected:?}, but found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn coturn_confirms_the_profile_of_each_nat() {
    each_nat_behaves_like_its_profile(false);
}

#[test]
fn coturn_confirms_the_profiles_in_a_user_namespace() {
    each_nat_behaves_like_its_profile(true);
}

/// Sends STUN requests one after the other, and prints the response time of each in ms, or `lost`.
const PROBE: &str = "
import os, socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.4)
for i in range(int(sys.argv[1])):
    t = os.urandom(12)
    start = time.perf_counter()
    s.sendto(struct.pack('!HHI', 1, 0, 0x2112A442) + t, ('203.0.113.10', 3478))
    try:
        while s.recv(2048)[8:20] != t:
            pass
        print((time.perf_counter() - start) * 1000)
    except socket.timeout:
        print('lost')
";

fn probe(link: LinkSettings, count: usize) -> Vec<Option<f64>> {
    let mut plan = plan("port", "none");
    plan.a.link = link;
    let lab = start(&plan);
    let _coturn = lab.coturn(&CoturnOptions::default()).unwrap();
    let mut command = lab.command(Location::A, "python3");
    command.args(["-c", PROBE]).arg(count.to_string());
    output(command).lines().map(|line| line.parse().ok()).collect()
}

#[test]
fn a_link_delays_both_ways() {
    let link = LinkSettings { delay: Duration::from_millis(25), ..LinkSettings::default() };
    let mut times: Vec<f64> = probe(link, 40).into_iter().map(Option::unwrap).collect();
    times.sort_by(f64::total_cmp);
    println!("2 x 25 ms: p50 {:.2} ms, p90 {:.2} ms", times[20], times[36]);
    assert!(times[0] >= 50.0, "{times:?}");
}

#[test]
fn a_link_loses_its_share() {
    let link = LinkSettings { loss: 0.3, ..LinkSettings::default() };
    let lost = probe(link, 40).iter().filter(|time| time.is_none()).count();
    // Loss in both directions: 51 % of 40.
    println!("lost {lost} of 40");
    assert!((8..=33).contains(&lost), "{lost}");
}

/// Two sockets of one host find out their external addresses, then send to each other's, three times in
/// each direction. Prints for each packet whether it came from the expected address, or `nothing`.
const TURN_AROUND: &str = "
import os, socket, struct
def opened():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.3)
    s.sendto(struct.pack('!HHI', 1, 0, 0x2112A442) + os.urandom(12), ('203.0.113.10', 3478))
    answer, at = s.recv(2048), 20
    while True:
        kind, length = struct.unpack('!HH', answer[at:at + 4])
        if kind == 0x0020:
            port = struct.unpack('!H', answer[at + 6:at + 8])[0] ^ 0x2112
            return s, ('203.0.113.2', port)
        at += 4 + (length + 3) // 4 * 4
(a, at_a), (b, at_b) = opened(), opened()
for _ in range(3):
    for one, to, other, seen in ((a, at_b, b, at_a), (b, at_a, a, at_b)):
        one.sendto(b'round', to)
        try:
            print(other.recvfrom(100)[1] == seen)
        except socket.timeout:
            print('nothing')
";

#[test]
fn only_hairpinning_nats_hairpin_packets() {
    for (name, expected) in [
        ("fullcone", "nothing nothing nothing nothing nothing nothing"),
        ("fullcone:hairpin", "True True True True True True"),
        // The filter drops the first packet.
        ("addr:hairpin", "nothing True True True True True"),
        ("port:hairpin", "nothing True True True True True"),
        ("port+port:hairpin", "nothing True True True True True"),
    ] {
        let lab = start(&plan(name, "none"));
        let _coturn = lab.coturn(&CoturnOptions::default()).unwrap();
        let mut command = lab.command(Location::A, "python3");
        command.args(["-c", TURN_AROUND]);
        let found: Vec<String> = output(command).lines().map(str::to_owned).collect();
        assert_eq!(found.join(" "), expected, "{name}");
    }
}

/// Runs `orion-peer lab shell` with these arguments and these leading words (`setpriv …`), in its own
/// process group. All processes that it starts carry `mark` in their environment.
fn shell(leading: &[&str], mark: &str, words: &[&str]) -> Child {
    let all: Vec<&str> = leading.iter().copied().chain([ORION_PEER, "lab", "shell"]).collect();
    Command::new(all[0])
        .args(&all[1..])
        .args(words)
        .env("LAB_MARK", mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Processes whose environment has the mark.
fn marked(mark: &str) -> BTreeSet<u32> {
    let mark = format!("LAB_MARK={mark}\0");
    let process = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        environment.windows(mark.len()).any(|part| part == mark.as_bytes()).then_some(id)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| process(entry.unwrap())).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + HANG;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {HANG:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command inside with three processes: one has left the session, one ignores signals.
const STUBBORN: [&str; 4] = [
    "--",
    "sh",
    "-c",
    "setsid sleep 300 & echo inside; (trap '' INT TERM HUP; sleep 300) & exec sleep 300",
];

fn no_process_is_left(mark: &str, end: impl FnOnce(Pid)) -> Option<i32> {
    let words = [&["--nat", "port+sym", "--delay", "5ms"], &STUBBORN[..]].concat();
    let mut child = shell(&[], mark, &words);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "inside\n", "{}", said(&mut child));
    // `orion-peer`, the holder, the link, `serve`, and three sleeping processes.
    wait_until("the lab runs", || marked(mark).len() >= 7);
    let interfaces = || fs::read_dir("/sys/class/net").unwrap().count();
    let before = interfaces();
    end(Pid::from_child(&child));
    let status = child.wait().unwrap();
    wait_until("everything has ended", || marked(mark).is_empty());
    assert_eq!(interfaces(), before);
    status.code()
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = child.stderr.as_mut() {
        let _ = std::io::Read::read_to_string(stderr, &mut text);
    }
    text
}

#[test]
fn after_a_kill_no_process_is_left() {
    let code = no_process_is_left("kill-9", |pid| kill_process(pid, Signal::KILL).unwrap());
    assert_eq!(code, None);
}

#[test]
fn after_ctrl_c_no_process_is_left_and_the_exit_code_is_that_of_the_command() {
    let group = |pid| rustix::process::kill_process_group(pid, Signal::INT).unwrap();
    assert_eq!(no_process_is_left("ctrl-c", group), Some(130));
}

#[test]
fn sigterm_is_forwarded() {
    let code = no_process_is_left("term", |pid| kill_process(pid, Signal::TERM).unwrap());
    assert_eq!(code, Some(128 + 15));
}

#[test]
fn exit_code_and_output_are_those_of_the_command() {
    let child = shell(&[], "exit", &["--nat", "sym", "--", "sh", "-c", "echo inside; exit 7"]);
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(7), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "inside\n");
    assert!(stderr.contains("behind `sym`") && stderr.contains("192.168.1.2"), "{stderr}");
}

#[test]
fn orion_peer_inside_finds_the_server() {
    let words = ["--nat", "port+port", "--delay", "2ms", "--", ORION_PEER, "token", "fetch"];
    let child = shell(&[], "token", &[&words[..], &["--device", "phone"]].concat());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim().split('.').count(), 3);
}

#[test]
fn root_is_not_required() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("orion-peer");
    fs::copy(ORION_PEER, &program).unwrap();
    let words = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "setpriv" } else { "env" });
    if root {
        command.args(words);
    }
    command.arg(&program).args(["lab", "shell", "--nat", "sym", "--delay", "1ms", "--"]);
    command.args(["sh", "-c", "id -u; \"$0\" token fetch --device mac"]).arg(&program);
    let ended = command.current_dir("/").stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let id = if root { 65_534 } else { rustix::process::geteuid().as_raw() };
    assert!(stdout.starts_with(&format!("{id}\n")), "{stdout}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
}

#[test]
fn the_setting_that_forbids_namespaces_is_named() {
    let script = "echo 0 >/proc/sys/user/max_net_namespaces && exec \"$@\"";
    let leading = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"];
    let ended = shell(&leading, "none", &["--", "true"]).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("sysctl -w user.max_net_namespaces="), "{stderr}");
    assert!(stderr.contains("simulated lab"), "{stderr}");
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let script = "mount -n -t tmpfs tmpfs /usr/sbin && exec \"$@\"";
    let leading = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let ended = shell(&leading, "missing", &["--", "true"]).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("install the package `"), "{stderr}");
}

/// A program whose `doctor` always reports the given NAT, and which otherwise is `orion-peer`.
fn program_whose_doctor_reports(dir: &Path, profile: &str) -> std::path::PathBuf {
    let program = dir.join("orion-peer");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' doctor '*) echo '{{\"nat\":{{\"profile\":\"{profile}\"}}}}' ;;\n\
         *) exec {ORION_PEER} \"$@\" ;;\nesac\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test]
async fn a_lab_checks_itself_before_it_is_used() {
    KernelBackend::start(Some(ORION_PEER.into())).await.unwrap_or_else(|error| panic!("{error:?}"));
    let dir = tempfile::tempdir().unwrap();
    let program = program_whose_doctor_reports(dir.path(), "port");
    let refused = KernelBackend::start(Some(program)).await.err().expect("`sym` is not `port`");
    assert_eq!(refused.code, "lab-unlike-profile");
    assert!(refused.message.contains("`sym`"), "{}", refused.message);
}

#[test]
fn an_unsupported_nat_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run::run(dir.path(), &["lab", "shell", "--nat", "sym:hairpin", "--", "true"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("use the simulated lab"), "{}", ended.stderr);
}
