// Reads the memory accounts from the families of cgroups. Each container, each pod and the node has an
// account: its memory use, its limit if it has one, and the parts of its use. Also parses OOM records.

const CGROUP = new RegExp('cgroup_((pod_)?memory_(current|limit|working_set|account|unmapped'
	+ '|outside_containers)|node_memory)_bytes\\{', 'y');
// The parts that add up to the use of a container or pod, in the order in which its bar shows them.
const PARTS = ('anon anon_unmapped page_cache shmem hugetlb slab page_tables sec_page_tables '
	+ 'kernel_stacks percpu vmalloc zswap '
	+ 'kernel_other sockets rest outside remainder').split(' ');
// The parts of the node's memory, in the order in which its bar shows them. `cgroup` stands for the parts of
// top-level cgroups. The name of such a part is the path of one cgroup, such as `/system.slice`, or
// `other_cgroups` for several cgroups together.
const NODE_PARTS =
	'pods other_pods ended_pods cgroup root_cgroup kernel hugetlb_pool zram balloon remainder free'.split(' ');
// The parts of page cache and shared memory that no process maps.
const UNMAPPED = ['unmapped_page_cache', 'unmapped_shmem'];
const OF_CONTAINER = PARTS.filter(part => !/^(anon|page_cache|shmem|remainder)$/.test(part));
// How parts are displayed if the displayed name differs from the label.
const NAMES = {
	anon: 'anonymous', anon_unmapped: 'unmapped anonymous', shmem: 'tmpfs and shared memory',
	hugetlb: 'hugetlbfs',
	sec_page_tables: 'secondary page tables', percpu: 'per-CPU', kernel_other: 'other kernel memory',
	rest: 'rest of the pod', outside: 'outside containers', unmapped_shmem: 'unmapped tmpfs',
	difference: 'rest of the use',
	cgroup: 'cgroups outside pods', kernel: 'kernel, not charged', hugetlb_pool: 'huge page pool',
};
const nameOfPart = part => Object.hasOwn(NAMES, part) ? NAMES[part] : visible(part.replace(/_/g, ' '));
const colourOf = part => ({ page_cache: 'file', shmem: 'shm', remainder: 'difference' })[part] || part;
for (const part of [...UNMAPPED, ...OF_CONTAINER, 'difference', ...NODE_PARTS]) {
	KINDS[part] = nameOfPart(part).replace(/^./, c => c.toUpperCase());
}
// Each part of the memory use of a container, a pod or the machine has its own tree node. The name of the
// tree node is TILE followed by the name of the part. No command, container or pod can have such a name: a
// command has at most 15 bytes, which is too short, and Kubernetes allows no _ in names.
const TILE = 'cgroup_memory_', CHARGED = 'charged_memory', NODE = 'node_memory', LAYERS = [CHARGED, NODE];
// Returns the kind and the displayed text of a tree node that shows one part of the memory use of a
// container, a pod or the machine. `tile` is the name of the tree node without the prefix TILE.
function tileOf(tile) {
	const [, where, part] = /^(?:(outside|node)_)?(.*)/s.exec(tile);
	if (where === 'outside') return [where, 'outside containers: ' + (part === 'kernel'
		? part : nameOfPart(part))];
	return Object.hasOwn(KINDS, part) ? [part, nameOfPart(part)] : ['cgroup', part[0] === '/' ? visible(part)
		: nameOfPart(part)];
}

// An account is the memory use of a container, a pod or the node, with its parts. `accounts` has the accounts
// on display, and `reading` has the accounts of the exposition that is being read. The keys of both maps are
// the labels of containers and pods as JSON. In `reading`, the key `[]` stands for the node. `ofNode` is the
// node's account on display.
let accounts = new Map(), reading = new Map(), ofNode;
const tileNodes = new Set();

const accountOf = n => n.account || n.target?.account;
const isKept = n => n.seen >= tick || n.charged >= tick;
const hasParts = a => Object.keys(a.parts).length > 0;

// Reads a line of a cgroup family. Returns whether the line is a sample. Ignores samples of parts that this
// page does not know.
function readCgroup(line) {
	const sample = parseSample(line);
	if (!sample) return false;
	const { name, labels, value } = sample, part = labels.get('part');
	const [, where, what] = /^cgroup_(?:(pod|node)_)?memory_(\w*?)_?bytes$/.exec(name);
	const names = LEVELS.slice(0, { pod: 2, node: 0 }[where] ?? 3).map(level => labels.get(level) ?? '');
	const key = JSON.stringify(names);
	if (!isFinite(value)) return true;
	let a = reading.get(key);
	if (!a) {
		a = { names, current: NaN, limit: NaN, working_set: NaN, parts: {}, unmapped: {}, more: new Map(),
			inside: 0, tiles: NONE };
		reading.set(key, a);
	}
	if (what === 'account') {
		if (PARTS.includes(part)) a.parts[part] = value;
	} else if (what === 'unmapped') {
		if (UNMAPPED.includes('unmapped_' + part)) a.unmapped['unmapped_' + part] = value;
	} else if (part) a.more.set(part, value);
	else a[what] = value;
	return true;
}
function findPlaceOf(names) {
	let n = root;
	for (const name of names) n = n?.by?.get(name);
	return n?.level === LEVELS[names.length - 1] ? n : null;
}
// Adds the memory use of containers and pods to the tree, and computes two fields that the user can select:
// Charged memory and Node memory. Charged memory shows the memory use of each container. Node memory also
// shows the memory use of each pod, and MemTotal as the memory use of the node. Both fields divide the memory
// use of a container in the same way: each mapped path has its PSS, each part that no process maps has its
// size, and the part `difference` has all other memory.
function charge() {
	for (const a of accounts.values()) if (a.n) a.n.account = null;
	ofNode = reading.get('[]');
	reading.delete('[]');
	[accounts, reading] = [reading, new Map()];
	const pss = fields.get('pss'), containers = [], pods = [];
	const isAny = [...accounts.values()].some(hasParts), isUsed = pss && (isAny || ofNode);
	for (const a of accounts.values()) {
		a.n = findPlaceOf(a.names);
		if (!a.n && isUsed && a.current >= 0) {
			a.n = a.names.reduce((n, name, k) => child(n, LEVELS[k], name, true), root);
		}
		if (!a.n) continue;
		a.n.account = a;
		if (a.current >= 0) (a.names.length < 3 ? pods : containers).push(a);
	}
	for (const a of containers) addToPod(a);
	for (const a of pods) completePod(a);
	if (!isUsed) return;
	for (const a of containers) {
		const parts = OF_CONTAINER.filter(part => part in a.parts).map(part => [part, a.parts[part]]);
		divide(a, a.current - (pss.next[a.n.i] || 0), [...Object.entries(a.unmapped), ...parts]);
	}
	const help = 'Memory charged to containers by their cgroups. Inside: mapped paths by PSS, '
		+ 'and parts that no process maps.';
	if (isAny) fill(CHARGED, help, containers, containers);
	if (ofNode) chargeNode(pods, containers);
}
const sumOfAll = list => list.reduce((sum, v) => sum + v, 0);
function chargeNode(pods, containers) {
	// If there is no part `pods`, the pods are below another top-level cgroup than the kubelet's usual one.
	// The memory of that cgroup already includes the pods. So the pods are not shown by name, because their
	// memory would be counted twice.
	if (!ofNode.more.has('pods')) pods = containers = [];
	const { more } = ofNode, listed = sumOfAll(pods.map(a => a.current)), named = (word, parts) =>
		parts.map(([part, v]) => [word + part, v]);
	for (const a of pods) divide(a, a.current - a.inside, named('outside_', [...a.more]), 'rest');
	Object.assign(ofNode, { n: root, current: sumOfAll([...more.values()]), limit: NaN });
	const parts = [...more, ['other_pods', (more.get('pods') || 0) - listed]]
		.filter(([part]) => part !== 'pods');
	divide(ofNode, ofNode.current - listed, named('node_', parts));
	fill(NODE, 'All memory of the node (MemTotal), by what it is charged to.',
		pods, [...pods, ...containers.filter(a => a.isInPod), ofNode]);
}
// Adds the memory use of a container to the account of its pod.
function addToPod(a) {
	const pod = accounts.get(JSON.stringify(a.names.slice(0, 2)));
	a.isInPod = pod?.current >= 0;
	if (!a.isInPod) return;
	pod.inside += a.current;
	const { parts } = pod;
	for (const [part, v] of Object.entries(hasParts(a) ? a.parts : { rest: a.current }))
		parts[part] = (parts[part] || 0) + v;
}
// Completes the parts of a pod's account, which so far are the sums of its listed containers. The memory that
// is charged to the pod, but to none of its containers, is the part `outside`. If the parts add up to less
// than the pod's memory use, for example because some containers are not listed, the part `rest` gets the
// difference. If they add up to more, the excess is subtracted from the part `remainder`.
function completePod(a) {
	const outside = sumOfAll([...a.more.values()]), left = a.current - a.inside - outside;
	if (a.more.size) a.parts.outside = outside;
	const part = left > 0 ? 'rest' : 'remainder';
	if (left) a.parts[part] = (a.parts[part] || 0) + left;
}
// Makes the tiles for the memory use of a container, a pod or the node. A tile is a rectangle of the treemap
// for one part of the memory use. `left` is the memory use minus what other rectangles inside already show,
// such as mapped paths. Only parts above 0 get tiles. If they add up to less than `left`, one more tile with
// the name in `rest` shows the difference. If they add up to more, the difference is stored as `over`.
function divide(a, left, parts, rest = 'difference') {
	const some = parts.filter(([, v]) => v > 0);
	for (const [, v] of some) left -= v;
	a.over = max(0, -left);
	if (left > 0) some.push([rest, left]);
	a.tiles = some.map(([part, v]) => {
		const tile = child(a.n, 'part', TILE + part, true);
		if (!tileNodes.has(tile)) {
			tileNodes.add(tile);
			if (pivot) addToPivot(tile);
		}
		tile.charged = tick;
		return [tile, v];
	});
	for (let up = a.n; up; up = up.up) up.charged = tick;
}
// Computes one field of the tree, such as charged memory. An account has the memory use of a container, a pod
// or the node. Each account in `owners` becomes the value of its container, pod or node. Each account in
// `summed` is added to the values of all levels above, such as its namespace. Commands and mapped paths in a
// container get their PSS.
function fill(name, help, summed, owners) {
	const { next } = Object.assign(fieldOf(FAMILY + name + '_bytes'), { help }), pss = fields.get('pss').next;
	for (const a of summed) for (let { up } = a.n; up; up = up.up) next[up.i] = (next[up.i] || 0) + a.current;
	for (const a of owners) next[a.n.i] = a.current;
	for (const n of nodes) if (LEVELS.indexOf(n.level) > 2 && next[n.up.i] >= 0) next[n.i] = pss[n.i];
	for (const a of owners) for (const [tile, v] of a.tiles) next[tile.i] = v;
}
// An account has the memory use of a container, a pod or the node. Returns whether the selected field shows
// the account `a`. Charged memory shows only the accounts of containers. These have three names: namespace,
// pod and container. Other accounts have fewer names. Node memory shows all accounts, except the account of a
// container if the memory use of its pod is unknown.
const isShown = a => layer === NODE ? a.isInPod !== false : a.names.length > 2;
// Returns the shown accounts for which the rectangles inside add up to more than the account's memory use.
const excesses = () => [ofNode, ...accounts.values()].filter(a => a?.over > 0 && isShown(a));

// ---- Bars

// Returns the parts of an account as a list of [name, bytes, colour].
function entriesOf(a) {
	const { parts, more } = a;
	if (a !== ofNode) {
		return PARTS.filter(part => part in parts).map(part => [nameOfPart(part), parts[part], colourOf(part)]);
	}
	const place = ([, , kind]) => NODE_PARTS.indexOf(kind);
	const list = [...more].map(([part, v]) => {
		const [kind, text] = tileOf('node_' + part);
		return [text, v, kind];
	});
	return list.sort((a, b) => place(a) - place(b) || b[1] - a[1]);
}
// Returns a bar: the filled fraction of its width, and its parts as a list of [name, bytes, colour, fraction
// of the width]. The whole width stands for the limit or, without a limit, for `largest` bytes.
function barOf(a, largest) {
	const isLimited = a.limit > 0, whole = isLimited ? max(a.limit, a.current) : largest, list = entriesOf(a);
	const sum = sumOfAll(list.map(([, v]) => max(0, v))), width = whole > 0 ? min(1, a.current / whole) : 0;
	return {
		isLimited, width, used: isLimited ? a.current / a.limit : NaN,
		parts: sum > 0 ? list.map(([name, v, colour]) => [name, v, colour, max(0, v) / sum * width])
			: [['in use', a.current, 'all', width]],
	};
}
const partsText = parts => parts.filter(([, v]) => v).map(([name, v]) => `${name} ${size(v)}`);
// Returns the containers inside a node of the tree as rows of the table. Each call returns the same object
// for the same container.
function containersOf(place) {
	const list = [], walk = [place];
	while (walk.length) {
		const n = walk.pop();
		if (n.level !== 'container') walk.push(...n.kids.filter(k => LEVELS.indexOf(k.level) < 3));
		else if (isKept(n) || n.account) {
			const pod = n.up;
			list.push(n.row ||= { ...makeNode(pod.up, 'pod', pod.name), level: 'container', dir: '',
				full: `${pod.full} › ${n.text}`, note: `${pod.up.text} › ${n.text}`, members: [n], target: n });
		}
	}
	return list;
}

// ---- Records of OOM kills

const MOST_RECORDS = 64, MOST_PATHS = 10;
// Parses the response to GET /ooms. Returns the records, the newest first. A field of a wrong type becomes
// NaN or empty, so that other code need not check types.
function readOoms(text) {
	const number = v => typeof v === 'number' && isFinite(v) ? v : NaN, string = v => typeof v === 'string'
		? v : '';
	const list = v => Array.isArray(v) ? v.filter(one => one && typeof one === 'object') : [];
	return list(JSON.parse(text)?.records).slice(0, MOST_RECORDS).map(r => ({
		...Object.fromEntries(['namespace', 'pod', 'container', 'command', 'limit'].map(key => [key,
			string(r[key])])),
		...Object.fromEntries(['time', 'kills', 'limit_bytes', 'use_bytes', 'hit_limit_bytes', 'hit_use_bytes',
			'outside_containers_bytes', 'peak_bytes', 'reading_age_seconds', 'mapped_bytes',
			'growth_seconds'].map(key => [key, number(r[key])])),
		candidates: Array.isArray(r.candidates) ? r.candidates.map(string).filter(Boolean) : [],
		hasUnselected: r.has_unselected === true,
		victims: list(r.victims).slice(0, MOST_PATHS)
			.map(v => ({ pid: number(v.pid), command: string(v.command) })),
		processes: list(r.processes).slice(0, MOST_PATHS)
			.map(p => ({ pid: number(p.pid), command: string(p.command), rss_bytes: number(p.rss_anon_bytes)
			+ number(p.rss_file_bytes) + number(p.rss_shmem_bytes) })),
		paths: list(r.paths).slice(0, MOST_PATHS).map(p => ({ command: string(p.command), path: string(p.path),
			pss_bytes: number(p.pss_bytes), growth_bytes: number(p.growth_bytes) })),
		parts: Object.fromEntries(PARTS.map(part => [part, number(r.account?.[part])])
			.filter(([, v]) => v === v)),
	})).sort((a, b) => (b.time || 0) - (a.time || 0));
}
// Returns the memory use that the bar of an OOM record shows, with its limit and its parts. If the pod's
// limit was hit and the record has the values of the pod, this is the memory use of the pod. Otherwise it is
// the memory use of the container.
function accountOfKill(r) {
	const current = r.hit_use_bytes, outside = r.outside_containers_bytes, isKnown = r.container
		&& r.use_bytes >= 0;
	if (r.limit !== 'pod' || !(current >= 0 && outside >= 0)) {
		return { current: r.use_bytes, limit: r.limit_bytes, parts: r.parts };
	}
	const rest = max(0, current - outside - (isKnown ? r.use_bytes : 0));
	return { current, limit: r.hit_limit_bytes, parts: { ...isKnown ? r.parts : {}, rest, outside } };
}
