// Builds the pivot, and finds what the user searches for. The page has a tree by namespace and pod. The pivot
// is a second tree of the same series, by path. A node of the pivot, or a row of a search, has members, which
// are nodes of the first tree. Its value is the sum of their values.

// The root of the pivot, a second tree of the same series. The levels below the root are path (or kind),
// namespace, pod and command. For a tile, which stands for one part of the memory use of a container, a pod
// or the node, the levels are part, namespace, pod and container. The pivot is built when it is first needed.
let pivot = null;

const isByPath = n => n.level === 'path' || n.level === 'kind' || n.level === 'part';
const canPivot = () => order.some(isByPath);
function gather(n, member) {
	(n.members ||= []).push(member);
	n.seen = max(n.seen, member.seen);
	n.charged = max(n.charged, member.charged);
}
function addToPivot(leaf) {
	if (!isByPath(leaf)) return;
	const names = {};
	for (let n = leaf; n !== root; n = n.up) names[n.level] = n.name;
	let n = pivot;
	const isPart = leaf.level === 'part';
	for (const level of [leaf.level, 'namespace', 'pod', isPart ? 'container' : 'comm']) {
		// A tile for memory of the whole machine has no namespace, pod or container. A tile for memory of a pod
		// has no container. The pivot has no nodes for these missing levels.
		if (isPart && !(level in names)) break;
		n = child(n, level, names[level] ?? '');
		n.kind = leaf.kind;
		gather(n, leaf);
	}
	leaf.twin = n;
}
function getPivot() {
	if (!pivot) {
		pivot = { ...makeNode(null, 'node', ''), i: 0 };
		for (const n of series.values()) addToPivot(n);
		for (const n of tileNodes) addToPivot(n);
		seePivot();
	}
	return pivot;
}
function seePivot() {
	pivot.seen = tick;
	for (const leaf of series.values()) {
		if (!(leaf.seen >= tick)) continue;
		for (let n = leaf.twin; n && n.seen !== tick; n = n.up) n.seen = tick;
	}
	pivot.charged = tick;
	for (const leaf of tileNodes) {
		if (!(leaf.charged >= tick)) continue;
		for (let n = leaf.twin; n && n.charged !== tick; n = n.up) n.charged = tick;
	}
}

const rootOf = n => n.up ? rootOf(n.up) : n;
const isIn = (tree, n) => rootOf(n) === tree;
const podOf = n => n.level === 'pod' || !n.up ? n : podOf(n.up); // the root if there is no pod
const kidsOf = n => n.kids.filter(live);
// Returns the rows of the table for a node of the tree: its children, with each namespace replaced by its
// pods.
const insideOf = n => kidsOf(n).flatMap(k => k.level === 'namespace' ? kidsOf(k) : [k]);
// Returns the node of the tree that a link to `n` opens. This is usually `n` itself. A link to a pod with
// only one container opens the container.
function entered(n) {
	const kids = n.level === 'pod' ? kidsOf(n) : [];
	return kids.length === 1 && kids[0].kids.length ? kids[0] : n;
}
// Returns the node of the tree that a link outward from `n` opens. This is usually the parent of `n`. But a
// link to a pod with only one container opens the container (see entered()). So if `n` is such a container,
// the link opens the parent of the pod.
function outsideOf(n) {
	const up = n.up || n;
	return up.up && n.level !== 'namespace' && entered(up) === n ? up.up : up;
}

// ---- Search

const found = { q: '', place: null, rows: new Map() }; // rows are kept from scrape to scrape

// Prepares a text for comparison in a search. Returns the text as the page displays it, but in lower case,
// and with a space instead of each ␠. The page displays a space at either end of a name as ␠.
const asSearched = text => visible(text).toLowerCase().replace(/␠/g, ' ');
const lower = n => n.lower ??= asSearched(n.text);
const lowerFull = n => n.lowerFull ??= asSearched(n.full);
const matches = (n, q) => lower(n).includes(q) || (n.level === 'path' || q.includes('/'))
	&& lowerFull(n).includes(q);

// Marks the nodes below `n` that match the search. `drawing` is the number of the current drawing of the
// treemap. If a node matches, its property `hit` is set to `drawing`. If a node matches or has a match below
// it, its property `near` is set to `drawing`. Returns whether any node matches.
function mark(n, q, drawing) {
	let any = false;
	for (const k of n.kids) {
		if (!live(k)) continue;
		const hit = matches(k, q), below = mark(k, q, drawing);
		if (hit) k.hit = drawing;
		if (hit || below) k.near = drawing, any = true;
	}
	return any;
}
function chain(n, top) {
	const names = [];
	for (let up = n.up; up && up !== top && up.up; up = up.up) if (up.level !== 'namespace')
		names.unshift(up.full);
	return names.join(' › ');
}
// Returns one row for each node below `place` with the text `q` in its name. Nodes for the same path share
// one row, which shows the sum of their values.
function search(place, q) {
	if (found.q !== q || found.place !== place) Object.assign(found, { q, place, rows: new Map() });
	const old = found.rows, paths = new Map(), walk = [...place.kids], rows = found.rows = new Map();
	const row = (key, n, set) => {
		const r = old.get(key) || { ...makeNode(n.up, n.level, n.name), kind: n.kind };
		rows.set(key, Object.assign(r, set));
	};
	while (walk.length) {
		const n = walk.pop();
		if (!live(n)) continue;
		for (const k of n.kids) walk.push(k);
		if (!matches(n, q)) continue;
		if (!isByPath(n) || n.members) row(n, n, { members: n.members || [n], target: n, note: isByPath(n)
			? '' : chain(n, place) || n.level });
		else if (paths.has(n.name)) paths.get(n.name).push(n);
		else paths.set(n.name, [n]);
	}
	for (const [name, members] of paths) {
		const [n] = members, isOne = members.length === 1;
		const pods = new Set(members.map(podOf));
		const note = isOne ? chain(n, place) : pods.size > 1 ? `in ${count(pods.size)} pods`
			: `in ${count(members.length)} places`;
		row(n.level + name, n, { members, target: isOne ? n : null, note });
	}
	return [...rows.values()];
}
// Returns the node that the page shows after a click on a row. A row for several nodes with the same path
// leads to this path in the pivot, which is a second tree with the paths at its top.
function targetOf(n) {
	return n.target || (n.members && !n.up.members && isByPath(n) ? getPivot().by?.get(n.name) : n);
}
