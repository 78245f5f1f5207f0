// Keeps the tree of namespaces, pods, containers, commands and paths. Each field has an array with its values
// for all nodes. The number of a node is the node's index in these arrays.

// The text for each colour of tiles. account.js adds further entries.
const KINDS = { anon: 'Anonymous', anon_thread_stack: 'Thread stacks', anon_malloc_arena: 'Malloc arenas',
	anon_java_heap: 'Java heap', anon_java_classes: 'Java classes',
	anon_jit_code: 'JIT code', anon_go_heap: 'Go heap', anon_v8_heap: 'V8 heap', anon_allocator: 'jemalloc and '
		+ 'mimalloc', heap: 'Heap', stack: 'Stack', shm: 'Shared memory', file: 'File', special: 'Special',
		other: 'Folded into [other]', all: 'All kinds' };
// The kinds that --group-by kind gives to these paths, as in src/totals/grouping.rs. The same test cases
// check this table and that file.
const NAMED = {
	'/anon_hugepage (deleted)': 'anon', '/dev/zero': 'anon', '[heap]': 'heap', '[other]': 'other',
	'/[aio] (deleted)': 'special',
	'/dev/zero (deleted)': 'shm', '/secretmem (deleted)': 'shm', '/[kvm-gmem] (deleted)': 'shm',
	'[anon ~thread stacks]': 'anon_thread_stack', '[anon ~malloc arenas]': 'anon_malloc_arena',
	'[anon ~java heap]': 'anon_java_heap',
	'[anon ~java classes]': 'anon_java_classes', '[anon ~jit code]': 'anon_jit_code',
	'[anon ~go heap]': 'anon_go_heap', '[anon ~v8 heap]': 'anon_v8_heap',
	'[anon ~allocator]': 'anon_allocator', '[anon: Go: heap]': 'anon_go_heap',
	'[anon: Go: heap reservation]': 'anon_go_heap', '[anon:v8]': 'anon_v8_heap',
	'[anon: glibc: malloc arena]': 'anon_malloc_arena', '[anon: glibc: unused stack]': 'anon_thread_stack',
	'/i915 (deleted)': 'shm', '/drm mm object (deleted)': 'shm',
};
function kindOf(path) {
	return Object.hasOwn(NAMED, path) ? NAMED[path] : /^\[anon: glibc: pthread /.test(path)
		? 'anon_thread_stack' : /^\[anon(\]|:| ~)/.test(path) ? 'anon' : /^\[stack/.test(path) ? 'stack'
		: /^(\/dev\/shm\/|\/dev\/hugepages\/|\/memfd:|\/SYSV|\[anon_shmem:)/.test(path) ? 'shm'
			: path[0] === '/' && !/^\/(dev\/|sys\/|dmabuf:)/.test(path) ? 'file' : 'special';
}
const LEVELS = ['namespace', 'pod', 'container', 'comm', 'pid', 'path', 'kind', 'part'];

const fields = new Map(); // by short name, in the exposition's order
const series = new Map(); // label text as exposed -> node
// `nodes` has parents before their children. `order` has the nodes of the series, in the order of the last
// exposition.
let nodes = [], order = [];
let room = 1024, tick = 0;
const NONE = []; // the children of leaves, which most nodes are
const root = number(makeNode(null, 'node', ''));
let layer = ''; // the selected field if it is one that shows tiles of cgroups, see account.js
// Returns whether the last exposition has values to show for a node of the tree. `tick` is the number of the
// last exposition that was read completely. `seen` is the number of the last exposition that has series of
// processes for the node or for a node below it. `charged` is the number of the last exposition that has
// memory of cgroups for the node or for a node below it. `charged` counts only if the selected field shows
// memory of cgroups and has a value for the node.
const live = n => n.seen >= tick || !!layer && n.charged >= tick && at(fields.get(layer), n) >= 0;

// Makes a node. `i` is the index of the node's values in the columns of all fields. number() sets `i` for
// nodes of the tree. For other nodes, such as the rows of a search, `i` stays -1, and their values are
// computed from the nodes in `members` (see pivot.js).
function makeNode(up, level, name) {
	const n = { i: -1, up, level, name, kids: NONE, by: null, kind: 'all', dir: '', rank: -1, seen: 0,
		charged: 0, v: NaN };
	n.text = up ? (level === 'pid' ? 'pid ' : '') + visible(name)
		|| `(no ${level === 'comm' ? 'command' : level})` : 'Node';
	if (level === 'pod') n.dir = visible(up.name) + '/';
	if (level === 'kind') n.kind = Object.hasOwn(KINDS, name) ? name : 'special';
	if (level === 'part') {
		[n.kind, n.text] = tileOf(name.slice(TILE.length));
	}
	if (level === 'path') {
		n.kind = kindOf(name);
		const base = name[0] === '/' ? n.text.lastIndexOf('/') + 1 : 0;
		if (base < n.text.length) [n.dir, n.text] = [n.text.slice(0, base), n.text.slice(base)];
	}
	n.full = n.dir + n.text;
	return n;
}
function number(n) {
	n.i = nodes.length;
	nodes.push(n);
	if (n.i >= room) {
		room *= 2;
		for (const f of fields.values()) [f.now, f.next] = [column(f.now), column(f.next)];
	}
	return n;
}
function column(from = []) {
	const c = new Float64Array(room).fill(NaN);
	c.set(from);
	return c;
}
function child(up, level, name, isNumbered) {
	let n = up.by?.get(name);
	if (!n) {
		if (!up.by) [up.by, up.kids] = [new Map(), []];
		up.by.set(name, n = makeNode(up, level, name));
		up.kids.push(n);
		if (isNumbered) number(n);
	}
	return n;
}
// Returns the value of a node in the field `f`. Some nodes, such as the rows of a search, have no value of
// their own, but a list of other nodes in `members`. Then the value is the sum of the members' values. If the
// field is a page size, the value is the largest of the members' values.
function at(f, n, values = f.now) {
	if (n.i >= 0) return values?.[n.i] ?? NaN;
	let sum = NaN;
	for (const m of n.members) {
		const v = values?.[m.i] ?? NaN;
		if (v === v) sum = sum !== sum ? v : f.largest ? max(sum, v) : sum + v;
	}
	return sum;
}

// ---- Reading

const FAMILY = 'process_smaps_', OWN = 'smaps_exporter_', START = 'process_start_time_seconds';
function fieldOf(metric) {
	const name = metric.slice(FAMILY.length).replace(/_bytes$/, ''), bytes = metric.endsWith('_bytes'),
		largest = name.endsWith('page_size');
	if (!fields.has(name)) fields.set(name, { name, metric, bytes, largest, help: '', now: column(),
		next: column() });
	return fields.get(name);
}
function addSeries(key, labels) {
	let n = root;
	for (const level of LEVELS) {
		const name = labels.get(level);
		// Prometheus treats an empty label like an absent one. Here the two differ: an absent label adds no
		// node to the tree. An empty `pod` adds a node, and means that the container is in no pod.
		if (name !== undefined) n = child(n, level, name, true);
	}
	if (n === root) return null;
	n.key = key;
	series.set(key, n);
	if (pivot) addToPivot(n);
	return n;
}

// Parses an exposition. Writes its values to the column `next` of each field, while the page shows the column
// `now`. Returns the samples about the exporter itself by name, and the number of invalid lines. `pause` lets
// the browser draw and respond to the user during the parsing.
//
// All families list their series in the same order, which is stored in `order`. So each line is first
// compared with the label text of the next node in `order`. If they are equal, the labels need not be parsed.
async function read(text, pause) {
	const own = new Map();
	let prefix = '', field, walk = [], longest = [], next = 0, until = performance.now() + 10, broken = 0;
	for (const f of fields.values()) f.next.fill(NaN);
	reading = new Map();
	const add = (n, value) => {
		next = n.rank + 1;
		n.seen = tick + 1;
		field.next[n.i] = value;
		walk.push(n);
	};
	for (let pos = 0, end, line = 1; pos < text.length; pos = end + 1, line++) {
		end = text.indexOf('\n', pos);
		if (end < 0) end = text.length;
		if (pause && line % 1024 === 0 && performance.now() > until) {
			await pause();
			until = performance.now() + 10;
		}
		const guess = order[next];
		if (guess && prefix && text.startsWith(prefix, pos) && text.startsWith(guess.key, pos + prefix.length)) {
			const value = parseNumber(text.slice(pos + prefix.length + guess.key.length, end));
			if (value !== null) add(guess, value);
			else broken++;
			continue;
		}
		if (text[pos] === '#') {
			const help = text.startsWith('# HELP ' + FAMILY, pos) && parseHelp(text.slice(pos, end));
			if (help) fieldOf(help.name).help = help.text;
		} else if (text.startsWith(FAMILY, pos)) {
			// Adding a character makes a copy of the line. A slice of `text` alone would keep all of `text` in
			// memory.
			const sample = parseSample((' ' + text.slice(pos, end)).slice(1));
			const n = sample?.key && (series.get(sample.key) || addSeries(sample.key, sample.labels));
			if (!n) {
				broken++;
				continue;
			}
			if (field?.metric !== sample.name) {
				if (walk.length > longest.length) longest = walk;
				// If there is no order from an earlier exposition, the series of the later families are
				// expected in the order of the first family.
				if (!order.length) rank(longest);
				walk = [];
				field = fieldOf(sample.name);
				prefix = sample.name + '{';
			}
			add(n, sample.value);
		} else if (text.startsWith(OWN, pos) || text.startsWith(START, pos)) {
			const sample = parseSample((' ' + text.slice(pos, end)).slice(1));
			if (!sample) broken++;
			else if (own.has(sample.name)) own.get(sample.name).push(sample);
			else own.set(sample.name, [sample]);
		} else {
			CGROUP.lastIndex = pos;
			if (CGROUP.test(text) && !readCgroup((' ' + text.slice(pos, end)).slice(1))) broken++;
		}
	}
	rank(walk.length > longest.length ? walk : longest);
	return { own, broken };
}
function parseNumber(text) {
	const number = text[0] === ' ' ? +text : NaN;
	return number === number ? number : parseValue(text);
}
function rank(list) {
	order = list;
	list.forEach((n, k) => { n.rank = k; });
}

// Returns a + b. If one of the values is absent (NaN), returns the other value, because with --omit-zero the
// exporter leaves out values of 0.
const plus = (a, b) => a + b || (b !== b ? a : b);
// Sums children into parents, and makes the parsed exposition the current one.
function commit() {
	tick++;
	root.seen = tick;
	for (const f of fields.values()) {
		const v = f.next;
		for (let k = nodes.length - 1; k > 0; k--) {
			const x = v[k], p = nodes[k].up.i;
			if (x === x) v[p] = v[p] !== v[p] ? x : f.largest ? max(v[p], x) : v[p] + x;
		}
	}
	const clean = fields.get('private_clean'), dirty = fields.get('private_dirty');
	if (clean && dirty) {
		const uss = fieldOf(FAMILY + 'uss_bytes');
		uss.help = 'Private clean and private dirty: the memory that a process would free if only it ended.';
		for (let k = 0; k < nodes.length; k++) uss.next[k] = plus(clean.next[k], dirty.next[k]);
	}
	charge();
	measureOwn();
	let alive = 0;
	for (const f of fields.values()) [f.now, f.next] = [f.next, f.now];
	for (let k = nodes.length - 1; k > 0; k--) {
		const n = nodes[k];
		if (n.seen >= tick) n.up.seen = tick;
		if (isKept(n)) alive++;
	}
	if (nodes.length > 2 * alive + 2000) forget();
	if (pivot) seePivot();
}
// Removes the nodes that the last exposition does not have.
function forget() {
	nodes = nodes.filter(isKept);
	const pick = c => new c.constructor(c.length).map((_, k) => c[nodes[k]?.i] ?? NaN);
	for (const f of fields.values()) f.now = pick(f.now);
	for (const p of new Set(spans().flatMap(s => [s.base, ...s.points]))) p.columns.forEach((c, name) =>
		p.columns.set(name, pick(c)));
	nodes.forEach((n, k) => {
		n.i = k;
		if (!n.by) return;
		n.kids = n.kids.filter(isKept);
		n.by = new Map(n.kids.map(kid => [kid.name, kid]));
	});
	for (const [key, n] of series) if (!(n.seen >= tick)) series.delete(key);
	for (const n of tileNodes) if (!isKept(n)) tileNodes.delete(n);
	order = order.filter(n => n.seen >= tick);
	rank(order);
	pivot = null;
}
const isThere = f => f.now[0] === f.now[0];
