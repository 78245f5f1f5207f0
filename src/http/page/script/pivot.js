// Builds the pivot, a second tree of the same series by path. Also searches. Nodes of the pivot and rows of a
// search show the sums of their members, which are nodes of the first tree.

// The root of the pivot, or null until it is needed. Below it are the levels path or kind, namespace, pod and
// command.
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
		// A tile of the node's memory has no namespace, and a tile of a pod has no container.
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
// Returns the tree node that a link to `n` opens. A pod with only one container opens that container.
function entered(n) {
	const kids = n.level === 'pod' ? kidsOf(n) : [];
	return kids.length === 1 && kids[0].kids.length ? kids[0] : n;
}
// Returns the tree node that a link outward opens. A pod that opens its only container is skipped, see
// entered().
function outsideOf(n) {
	const up = n.up || n;
	return up.up && n.level !== 'namespace' && entered(up) === n ? up.up : up;
}

// ---- Search

const found = { q: '', place: null, rows: new Map() }; // rows are kept from scrape to scrape

// Returns a text as the search compares it: as displayed, in lower case, but with spaces instead of ␠.
const asSearched = text => visible(text).toLowerCase().replace(/␠/g, ' ');
const lower = n => n.lower ??= asSearched(n.text);
const lowerFull = n => n.lowerFull ??= asSearched(n.full);
const matches = (n, q) => lower(n).includes(q) || (n.level === 'path' || q.includes('/'))
	&& lowerFull(n).includes(q);

// Marks the nodes below `n` that match (`hit`), and those that match or contain a match (`near`). Returns
// whether any node matches.
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
// Returns a row for each node below `place` that matches `q`. Nodes with the same path share a row.
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
// Returns the node that a click on a row opens. A row for several nodes leads to their path in the pivot.
function targetOf(n) {
	return n.target || (n.members && !n.up.members && isByPath(n) ? getPivot().by?.get(n.name) : n);
}
