// What the cgroups say: of each container its use, its limit and what the use is made of (its account), and the records of OOM kills.

const CGROUP = /cgroup_memory_(current|limit|working_set|account|unmapped)_bytes\{/y;
// The parts that together are the use, as bars show them: by the label `part`, their name and their colour.
const PARTS = {
	anon: ['anonymous', 'anon'], anon_unmapped: ['unmapped anonymous', 'anon_unmapped'], page_cache: ['page cache', 'file'], shmem: ['tmpfs and shared memory', 'shm'],
	hugetlb: ['hugetlbfs', 'hugetlb'], slab: ['slab', 'slab'], page_tables: ['page tables', 'page_tables'], sec_page_tables: ['secondary page tables', 'sec_page_tables'],
	kernel_stacks: ['kernel stacks', 'kernel_stacks'], percpu: ['per-CPU', 'percpu'], vmalloc: ['vmalloc', 'vmalloc'], zswap: ['zswap', 'zswap'],
	kernel_other: ['other kernel memory', 'kernel_other'], sockets: ['sockets', 'sockets'], remainder: ['remainder', 'difference'],
};
// The parts that no process maps, as the treemap shows them.
const UNMAPPED = { unmapped_page_cache: 'unmapped page cache', unmapped_shmem: 'unmapped tmpfs' };
const TILES = { ...UNMAPPED };
for (const part in PARTS) if (!/^(anon|page_cache|shmem|remainder)$/.test(part)) [TILES[part]] = PARTS[part];
TILES.difference = 'difference';
for (const part in TILES) KINDS[part] = TILES[part].replace(/^./, c => c.toUpperCase());
// The node of a tile is a child of its container, beside the commands. A command's name is at most 15 bytes, so none is called this.
const TILE = 'cgroup_memory_', CHARGED = 'charged_memory';
const tileName = name => TILES[name] || name;

let accounts = new Map(), reading = new Map(); // by the container's labels, of the exposition that is shown and of the one being read
let excesses = []; // the containers whose mapped and unmapped tiles are more than their use: { n, by }
const tileNodes = new Set();

const accountOf = n => n.account || n.target?.account;
const isKept = n => n.seen >= tick || n.charged >= tick;
const hasParts = a => Object.keys(a.parts).length > 0;

// One line of a cgroup's family; whether it is a sample. What it says of parts that this page does not know is left out.
function readCgroup(line) {
	const sample = parseSample(line);
	if (!sample) return false;
	const { name, labels, value } = sample, names = LEVELS.slice(0, 3).map(level => labels.get(level) ?? ''), key = JSON.stringify(names);
	if (!isFinite(value)) return true;
	let a = reading.get(key);
	if (!a) reading.set(key, a = { names, current: NaN, limit: NaN, working_set: NaN, parts: {}, unmapped: {} });
	const what = name.slice(TILE.length, -'_bytes'.length), part = labels.get('part');
	if (what === 'account') {
		if (Object.hasOwn(PARTS, part)) a.parts[part] = value;
	} else if (what === 'unmapped') {
		if (Object.hasOwn(UNMAPPED, 'unmapped_' + part)) a.unmapped['unmapped_' + part] = value;
	} else a[what] = value;
	return true;
}
function findContainer(names) {
	let n = root;
	for (const name of names) n = n?.by?.get(name);
	return n?.level === 'container' ? n : null;
}
// Gives each container its account, and the field of charged memory its values: of a container its use, and inside the PSS of what is
// mapped, the parts that no process maps, and as `difference` what is left of the use. Called when the fields are summed.
function charge() {
	for (const a of accounts.values()) if (a.n) a.n.account = null;
	[accounts, reading] = [reading, new Map()];
	excesses = [];
	const pss = fields.get('pss'), isAny = [...accounts.values()].some(hasParts);
	for (const a of accounts.values()) {
		a.n = findContainer(a.names);
		const isCharged = isAny && a.current >= 0;
		if (!a.n && isCharged && pss) a.n = a.names.reduce((n, name, k) => child(n, LEVELS[k], name, true), root);
		if (a.n) a.n.account = a;
		if (isCharged && pss && a.n) chargeTo(a, pss);
	}
	const f = fields.get(CHARGED);
	if (!f) return;
	// Containers have their use, what is around them its sum; inside are paths by their PSS and the parts.
	for (const n of nodes) {
		f.next[n.i] = n.level === 'container' ? n.account?.tiles ? n.account.current : NaN : f.next[n.up?.i] >= 0 ? pss.next[n.i] : NaN;
	}
	for (const { n, tiles, current } of accounts.values()) {
		if (!tiles) continue;
		for (const [tile, v] of tiles) f.next[tile.i] = v;
		for (let up = n.up; up; up = up.up) f.next[up.i] = (f.next[up.i] || 0) + current;
	}
}
function chargeTo(a, pss) {
	const f = fieldOf(FAMILY + CHARGED + '_bytes'), { n } = a, mapped = pss.next[n.i] || 0, parts = { ...a.unmapped };
	f.help = 'What is charged to the containers, by their cgroups; inside, mapped paths by their PSS, and what no process maps.';
	for (const part in a.parts) if (Object.hasOwn(TILES, part)) parts[part] = a.parts[part];
	let left = a.current - mapped;
	for (const part in parts) {
		if (parts[part] > 0) left -= parts[part];
		else delete parts[part];
	}
	if (left > 0) parts.difference = left;
	else if (left < 0) excesses.push({ n, by: -left });
	a.tiles = Object.entries(parts).map(([part, v]) => {
		const tile = child(n, 'part', TILE + part, true);
		if (!tileNodes.has(tile)) {
			tileNodes.add(tile);
			if (pivot) addToPivot(tile);
		}
		for (let up = tile; up; up = up.up) up.charged = tick;
		return [tile, v];
	});
	for (let up = n; up; up = up.up) up.charged = tick;
}

// ---- Bars

// What a bar shows: how much of its width is filled, and how the filling is divided: [part, size, colour, share of the width]. The
// width is the limit; without one it is the largest use there is.
function barOf(a, largest) {
	const isLimited = a.limit > 0, whole = isLimited ? max(a.limit, a.current) : largest, list = Object.keys(PARTS).filter(part => part in a.parts);
	const sum = list.reduce((sum, part) => sum + max(0, a.parts[part]), 0), width = whole > 0 ? min(1, a.current / whole) : 0;
	return {
		isLimited, width, used: isLimited ? a.current / a.limit : NaN,
		parts: sum > 0 ? list.map(part => [PARTS[part][0], a.parts[part], PARTS[part][1], max(0, a.parts[part]) / sum * width]) : [['in use', a.current, 'all', width]],
	};
}
const partsText = parts => parts.filter(([, v]) => v).map(([name, v]) => `${name} ${size(v)}`);
// The containers below a place, each as a row of its own that lives on from scrape to scrape.
function containersOf(place) {
	const list = [], walk = [place];
	while (walk.length) {
		const n = walk.pop();
		if (n.level !== 'container') walk.push(...n.kids.filter(k => LEVELS.indexOf(k.level) < 3));
		else if (isKept(n) || n.account) {
			const pod = n.up;
			list.push(n.row ||= { ...makeNode(pod.up, 'pod', pod.name), level: 'container', dir: '', full: `${pod.full} › ${n.text}`, note: `${pod.up.text} › ${n.text}`, members: [n], target: n });
		}
	}
	return list;
}

// ---- Records of OOM kills

const MOST_RECORDS = 64, MOST_PATHS = 10;
// What GET /ooms answers, whatever it is, as records of which each field has its type; the newest first.
function readOoms(text) {
	const number = v => typeof v === 'number' && isFinite(v) ? v : NaN, string = v => typeof v === 'string' ? v : '';
	const list = v => Array.isArray(v) ? v.filter(one => one && typeof one === 'object') : [];
	return list(JSON.parse(text)?.records).slice(0, MOST_RECORDS).map(r => ({
		...Object.fromEntries(['namespace', 'pod', 'container', 'command', 'limit'].map(key => [key, string(r[key])])),
		...Object.fromEntries(['time', 'kills', 'limit_bytes', 'use_bytes', 'hit_limit_bytes', 'hit_use_bytes', 'peak_bytes', 'reading_age_seconds', 'mapped_bytes', 'growth_seconds'].map(key => [key, number(r[key])])),
		candidates: Array.isArray(r.candidates) ? r.candidates.map(string).filter(Boolean) : [],
		hasUnselected: r.has_unselected === true,
		victims: list(r.victims).slice(0, MOST_PATHS).map(v => ({ pid: number(v.pid), command: string(v.command) })),
		processes: list(r.processes).slice(0, MOST_PATHS).map(p => ({ pid: number(p.pid), command: string(p.command), rss_bytes: number(p.rss_anon_bytes) + number(p.rss_file_bytes) + number(p.rss_shmem_bytes) })),
		paths: list(r.paths).slice(0, MOST_PATHS).map(p => ({ command: string(p.command), path: string(p.path), pss_bytes: number(p.pss_bytes), growth_bytes: number(p.growth_bytes) })),
		parts: Object.fromEntries(Object.keys(PARTS).map(part => [part, number(r.account?.[part])]).filter(([, v]) => v === v)),
	})).sort((a, b) => (b.time || 0) - (a.time || 0));
}
