//! Discovery over a source that the test plays, with a clock that the test tells.

use super::*;
use std::sync::Mutex;

/// A source that gives what the test has put into it.
#[derive(Clone, Debug, Default)]
struct Played(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<Listing, String>>,
    n_begun: u32,
    is_listing: bool,
    is_lost: bool,
    lists_what_is_gone: bool,
}

impl Played {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Source for Played {
    fn runtime(&self) -> Option<&'static str> {
        Some("played")
    }

    fn describe(&self) -> String {
        "containers are played".into()
    }

    fn lists_what_is_gone(&self) -> bool {
        self.state().lists_what_is_gone
    }

    fn begin(&mut self) {
        let mut state = self.state();
        state.n_begun += 1;
        state.is_listing = true;
    }

    fn is_listing(&self) -> bool {
        self.state().is_listing
    }

    fn take(&mut self) -> Option<Result<Listing, String>> {
        let mut state = self.state();
        let answer = state.answer.take();
        state.is_listing &= answer.is_none();
        answer
    }

    fn is_lost(&mut self) -> bool {
        std::mem::take(&mut self.state().is_lost)
    }

    fn wait_for_listing(&mut self, _: Instant) {}

    fn wait_until(&mut self, _: Instant, _: &crate::demand::Wake) {}
}

/// A discovery, its source and its clock.
struct Node {
    discovery: Discovery,
    source: Played,
    start: Instant,
}

/// Pid, start time and cgroup.
type Process = (u32, u64, &'static str);

const HOST: Process = (1, 10, "/init.scope");
const A: Process = (100, 11, "/kubepods/a");
const B: Process = (200, 12, "/kubepods/x/init");

impl Node {
    fn new() -> Self {
        let source = Played::default();
        let filters = [Filter::parse("default/*/*/*").unwrap()];
        Self { discovery: Discovery::new(Box::new(source.clone()), &filters), source, start: Instant::now() }
    }

    /// A node with the containers a and b, that has been quiet for ten seconds. No component of B's cgroup is b's id.
    fn quiet() -> Self {
        let mut node = Self::new();
        node.see(0, &[HOST, A, B]);
        node.answer(0, &[("a", 100), ("b", 200)]);
        node.see(0, &[HOST, A, B]);
        node.see(3000, &[HOST, A, B]);
        node.answer(3000, &[("a", 100), ("b", 200)]);
        node.see(10_000, &[HOST, A, B]);
        node.source.state().n_begun = 0;
        node
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// The listing that is under way ends now: containers by id and pid.
    fn answer(&mut self, ms: u64, containers: &[(&str, u32)]) {
        let containers = containers.iter().map(|&(id, init_pid)| sources::Container {
            id: id.into(),
            init_pid: Some(init_pid).filter(|&pid| pid != 0),
            namespace: "default".into(),
            pod: "pod".into(),
            name: id.into(),
        });
        let listing = Listing { containers: containers.collect(), ..Listing::default() };
        self.source.state().answer = Some(Ok(listing));
        self.discovery.refresh(self.at(ms));
    }

    fn fail(&mut self, ms: u64) {
        self.source.state().answer = Some(Err("no answer".into()));
        self.discovery.refresh(self.at(ms));
    }

    /// A scrape finds these processes; says whether owners may have changed.
    fn see(&mut self, ms: u64, processes: &[Process]) -> bool {
        self.discovery.observe(&Processes::of(processes), self.at(ms))
    }

    /// How many listings have begun since this was asked last.
    fn n_begun(&self) -> u32 {
        std::mem::take(&mut self.source.state().n_begun)
    }

    fn owner(&self, path: &str) -> Option<&str> {
        let place = self.discovery.owners().owner_of_path(path.as_bytes());
        place.map(|place| place.container.listed.id.as_str())
    }
}

#[test]
fn what_calls_for_a_listing() {
    let cases: &[(&str, &[Process], u32)] = &[
        ("nothing new", &[HOST, A, B], 0),
        ("another process of the node's own", &[HOST, (5, 20, "/init.scope"), A, B], 0),
        ("another process of a container", &[HOST, A, (150, 20, "/kubepods/a/sub"), B], 0),
        ("a process of the node's own that ends", &[A, B], 0),
        ("an init process that has moved into a child", &[HOST, (100, 11, "/kubepods/a/init"), B], 0),
        ("a cgroup that nobody knows", &[HOST, A, B, (300, 20, "/kubepods/c")], 1),
        ("an init process that is gone", &[HOST, A], 1),
        ("an init process that began at another time", &[HOST, A, (200, 99, "/kubepods/x/init")], 1),
        ("an init process that has moved out", &[HOST, A, (200, 12, "/kubepods/y")], 1),
    ];
    for (what, processes, n_begun) in cases {
        let mut node = Node::quiet();
        node.see(11_000, processes);
        assert_eq!(node.n_begun(), *n_begun, "{what}");
    }
    let mut node = Node::quiet();
    node.see(62_999, &[HOST, A, B]);
    assert_eq!(node.n_begun(), 0);
    node.see(63_000, &[HOST, A, B]);
    assert_eq!(node.n_begun(), 1, "a minute has passed");
    node.see(63_500, &[HOST, A, B, (300, 20, "/kubepods/c")]);
    assert_eq!(node.n_begun(), 0, "one is under way");
}

#[test]
fn a_cgroup_without_processes_is_forgotten() {
    let mut node = Node::quiet();
    let stranger = (300, 20, "/system.slice/x");
    node.see(11_000, &[HOST, A, B, stranger]);
    node.answer(11_000, &[("a", 100), ("b", 200)]);
    node.see(14_000, &[HOST, A, B, stranger]);
    node.answer(14_000, &[("a", 100), ("b", 200)]);
    assert_eq!(node.n_begun(), 2, "the second, for the source may not have known at once");
    node.see(15_000, &[HOST, A, B, stranger]);
    assert_eq!(node.n_begun(), 0, "it is no container");
    node.see(16_000, &[HOST, A, B]);
    node.see(17_000, &[HOST, A, B, stranger]);
    assert_eq!(node.n_begun(), 1, "what was gone is new again");
    for i in 0..1000 {
        let path: &'static str = format!("/system.slice/run-{i}.scope").leak();
        node.see(18_000 + i, &[HOST, A, B, (1000 + i as u32, i, path)]);
        assert_eq!(node.discovery.unowned.len(), 2, "this one and the node's own");
    }
}

#[test]
fn an_init_process_that_is_gone_is_asked_about_once() {
    let mut node = Node::quiet();
    node.see(11_000, &[HOST, A]);
    node.answer(11_000, &[("a", 100), ("b", 200)]);
    node.see(14_000, &[HOST, A]);
    node.answer(14_000, &[("a", 100), ("b", 200)]);
    node.n_begun();
    node.see(15_000, &[HOST, A]);
    assert_eq!(node.n_begun(), 0, "its shim hangs: the runtime says that it runs");
    assert_eq!(node.owner("/kubepods/x/init/sub"), Some("b"), "and what is left of it is its own");
    node.source.begin();
    node.answer(15_000, &[("a", 100)]);
    assert_eq!((node.owner("/kubepods/x/init/sub"), node.owner("/kubepods/a")), (None, Some("a")));
    assert!(node.see(15_500, &[HOST, A]), "owners have changed");
    assert!(!node.see(16_000, &[HOST, A]));
}

#[test]
fn cgroups_belong_by_id_and_where_none_names_it_by_the_first_one_of_init() {
    let mut node = Node::quiet();
    assert_eq!((node.owner("/kubepods/a/sub"), node.owner("/kubepods/x/init")), (Some("a"), Some("b")));
    // Both inits move: what they owned stays, what they went into is not taken.
    node.see(11_000, &[HOST, (100, 11, "/kubepods/a/init"), (200, 12, "/init.scope")]);
    assert_eq!((node.owner("/kubepods/a/app"), node.owner("/kubepods/x/init")), (Some("a"), Some("b")));
    assert_eq!(node.owner("/init.scope"), None);
    // A pid that is used again brings no cgroup with it.
    let mut node = Node::quiet();
    node.see(11_000, &[HOST, A, (200, 99, "/system.slice/ssh.service")]);
    assert_eq!((node.owner("/system.slice/ssh.service"), node.owner("/kubepods/x/init")), (None, Some("b")));
    // A source that tells no pid.
    let mut node = Node::new();
    node.see(0, &[HOST, A]);
    node.answer(0, &[("a", 0)]);
    assert_eq!(node.owner("/kubepods/a/sub"), Some("a"));
    node.n_begun();
    node.see(3000, &[HOST, A]);
    node.answer(3000, &[("a", 0)]);
    node.see(6000, &[HOST, A]);
    assert_eq!(node.n_begun(), 1, "the one that makes sure");
}

#[test]
fn filters_select_containers() {
    let mut node = Node::quiet();
    assert!(node.discovery.containers().all(|container| container.is_selected));
    node.discovery.filters = vec![Filter::parse("default/pod/b/*").unwrap()];
    node.answer(11_000, &[("b", 201), ("c", 300)]);
    let selected: Vec<_> = node.discovery.containers().map(|c| (c.labels.as_str(), c.is_selected)).collect();
    let labels = |name: &str| format!("{{namespace=\"default\",pod=\"pod\",container=\"{name}\"");
    assert_eq!(selected, [(&*labels("b"), true), (&*labels("c"), false)]);
}

#[test]
fn filters_select_processes_by_name() {
    let mut node = Node::quiet();
    let filters = ["default/pod/a/java", "other/*/*/*"];
    node.discovery.filters = filters.map(|filter| Filter::parse(filter).unwrap()).into();
    node.answer(11_000, &[("a", 101), ("b", 201)]);
    let discovery = &node.discovery;
    let selects = |id: &str, comm| {
        let container = discovery.containers().find(|container| container.listed.id == id).unwrap();
        discovery.selects(container, comm)
    };
    assert!(selects("a", "java"));
    assert!(!selects("a", "sh"));
    assert!(!selects("b", "java"));
    // What no filter can select is not asked about its processes.
    let listed = discovery.containers().next().unwrap().listed.clone();
    assert!(!discovery.selects(&Container::new(listed, false), "java"));
}

#[test]
fn what_is_known_of_a_container_outlives_others() {
    let mut node = Node::quiet();
    node.see(11_000, &[HOST, (200, 12, "/init.scope")]);
    node.answer(11_000, &[("b", 200)]);
    assert_eq!((node.owner("/kubepods/a"), node.owner("/kubepods/x/init")), (None, Some("b")));
    node.see(14_000, &[HOST, (200, 12, "/init.scope")]);
    node.answer(14_000, &[("a", 100), ("b", 200), ("c", 300)]);
    assert_eq!(node.owner("/kubepods/x/init"), Some("b"));
}

#[test]
fn what_is_said_of_the_runtime() {
    let mut node = Node::new();
    assert_eq!(node.discovery.is_runtime_up(node.at(0)), Some(false));
    node.see(0, &[HOST]);
    node.fail(100);
    assert_eq!((node.discovery.is_runtime_up(node.at(100)), node.discovery.n_errors()), (Some(false), 1));
    node.see(600, &[HOST]);
    node.answer(700, &[("a", 100)]);
    assert_eq!(node.discovery.is_runtime_up(node.at(700)), Some(true));
    node.discovery.refresh(node.at(800));
    assert_eq!(node.discovery.is_runtime_up(node.at(800)), Some(true), "nothing to say is no end");
    // A listing that takes long is late.
    node.see(60_700, &[HOST]);
    assert_eq!(node.discovery.is_runtime_up(node.at(65_700)), Some(true));
    assert_eq!(node.discovery.is_runtime_up(node.at(65_701)), Some(false));
    node.answer(66_000, &[("a", 100)]);
    assert_eq!(node.discovery.is_runtime_up(node.at(66_000)), Some(true));
    // It ends: its containers stay, and it is asked again as soon as may be.
    node.source.state().is_lost = true;
    node.discovery.refresh(node.at(67_000));
    assert_eq!(node.discovery.is_runtime_up(node.at(67_000)), Some(false));
    assert_eq!((node.discovery.containers().len(), node.discovery.n_errors()), (1, 1));
    node.n_begun();
    node.see(67_000, &[HOST]);
    assert_eq!(node.n_begun(), 1);
    node.fail(67_050);
    assert_eq!(node.discovery.n_errors(), 2);
    node.answer(67_100, &[]);
    assert_eq!(
        (node.discovery.is_runtime_up(node.at(67_100)), node.discovery.containers().len()),
        (Some(true), 0)
    );
}

#[test]
fn the_first_listing_says_why_there_is_none() {
    let mut node = Node::new();
    assert_eq!(node.discovery.list_first(node.at(0)), Err("played has not answered yet".into()));
    node.source.state().answer = Some(Err("no answer".into()));
    assert_eq!(node.discovery.list_first(node.at(0)), Err("no answer".into()));
    node.source.state().answer = Some(Ok(Listing::default()));
    assert_eq!(node.discovery.list_first(node.at(0)), Ok(()));
}

/// The kubelet keeps links of containers that have ended: those run that have a process.
#[test]
fn what_runs_of_what_is_listed() {
    let mut node = Node::quiet();
    assert_eq!(node.discovery.n_running(), 2, "who knows what runs is believed");
    node.source.state().lists_what_is_gone = true;
    let pid_of_none = [("a", 0), ("b", 0), ("c", 0)];
    node.answer(11_000, &pid_of_none);
    let running = |node: &mut Node, processes: &[Process]| {
        let mut processes = Processes::of(processes);
        node.discovery.observe(&processes, node.at(11_000));
        processes.attribute_all(&node.discovery);
        node.discovery.see_running(&processes);
        let namespaces = node.discovery.namespaces().iter().map(|(_, n)| *n).sum::<u64>();
        assert_eq!(node.discovery.n_running(), namespaces);
        namespaces
    };
    assert_eq!(running(&mut node, &[HOST]), 0);
    assert_eq!(running(&mut node, &[HOST, A, (101, 11, "/kubepods/a/sub")]), 1);
    assert_eq!(running(&mut node, &[HOST, A, (300, 13, "/kubepods/c")]), 2);
    assert_eq!(running(&mut node, &[HOST, (300, 13, "/kubepods/c")]), 1);
}
