// Keeps how values change over time. A span of time begins when the page is opened, and another span begins
// when the user starts a measurement. A span keeps the first value of each field, and as many points as a
// line can show.

let opened, marked;
const spans = () => [opened, marked].filter(Boolean), since = () => marked || opened;
function pointOf(type, t) {
	return { t, columns: new Map([...fields.values()].filter(isThere)
		.map(f => [f.name, new type(f.now.subarray(0, nodes.length))])) };
}
const begin = t => ({ base: pointOf(Float64Array, t), points: [pointOf(Float32Array, t)], gap: 0 });
function remember(t) {
	opened ||= begin(t);
	const point = pointOf(Float32Array, t);
	// A span keeps at most 120 points. On a large node it keeps fewer points, so that all points together take
	// about 50 MB.
	const most = max(16, min(120, 12e6 / (nodes.length * point.columns.size + 1)));
	for (const s of spans()) {
		const p = s.points;
		// If the point before the last one is less than `gap` seconds old, the new point replaces the last one.
		// If there are too many points, every second point is removed.
		if (p.length > 1 && t - p.at(-2).t < s.gap || p.at(-1).t === t) p.pop();
		p.push(point);
		if (p.length < most) continue;
		s.gap = 2 * (t - p[0].t) / p.length;
		s.points = p.filter((_, k) => k % 2 === 0 || k === p.length - 1);
	}
}
// `identity` is different for each run of an exporter. If the exporter has restarted, or if a forwarded port
// now leads to another exporter, the values cannot be compared with earlier values.
let identity = '', hasBegunAgain = false;
function identify(id) {
	if (identity && identity !== id) {
		opened = marked = undefined;
		hasBegunAgain = true;
	}
	identity = id;
}

// If two processes share pages and one of them ends, the PSS and the private bytes of the other process rise,
// although it uses no more memory. Its resident bytes stay the same. So growth is measured both in private
// bytes (the field `own`) and in resident bytes (the field `held`), and the smaller growth is used. Both
// fields also include swapped bytes, and bytes that are charged to a container but not mapped.
function measureOwn() {
	const uss = fields.get('uss'), swap = fields.get('swap');
	if (!(uss?.next[0] >= 0)) return;
	for (const [name, mapped] of [['own', uss], ['held', fields.get('rss') || uss]]) {
		const { next } = Object.assign(fieldOf(FAMILY + name + '_bytes'), { isHidden: true });
		for (let k = 0; k < nodes.length; k++) next[k] = plus(mapped.next[k], swap ? swap.next[k] : NaN);
		for (const { names, tiles } of accounts.values()) {
			if (names.length === 3) for (const [tile, v] of tiles) if (tile.kind !== 'difference')
				for (let up = tile; up; up = up.up) next[up.i] = plus(next[up.i], v);
		}
	}
}
// Returns whether the growth of a node of the tree is measured in private and resident bytes (see
// measureOwn()) instead of in the field `f`. This is done for values that are PSS. Charged memory and Node
// memory also show PSS for commands, pids, paths and kinds.
function isByOwn(f, n) {
	return fields.has('own') && isThere(fields.get('own')) && (f.name === 'pss' || LAYERS.includes(f.name)
		&& /^(comm|pid|path|kind)$/.test((n.members?.[0] || n).level));
}

const valueAt = (point, f, n) => at(f, n, point.columns.get(f.name) || NONE);
const isNew = (f, n) => !(valueAt(since().base, f, n) >= 0);
// Returns how much the value of a node of the tree has changed since the page was opened, or since the user
// started a measurement. A node that did not exist then has grown from 0. A field that did not exist then
// counts as unchanged.
function change(f, n, valueOf = at) {
	if (isByOwn(f, n)) return min(...['own', 'held'].map(name => change(fields.get(name), n, valueOf)));
	const { base } = since(), now = valueOf(f, n), then = base.columns.has(f.name)
		? valueAt(base, f, n) : at(f, n);
	return now !== now && then !== then ? NaN : (now || 0) - (then || 0);
}
// Returns whether the change `v` is large enough to show. It must be at least 1% of the current value, and at
// least 1 MiB, or at least 1 if the field is not in bytes. Smaller changes are noise.
const matters = (f, n, v) => abs(v) >= max(f.bytes ? 1048576 : 1, abs(at(f, n) || v) / 100);

// Returns the remembered values of a node as a list of [time, value].
const dotsOf = (f, n) => since().points.map(p => [p.t, valueAt(p, f, n)]).filter(([, v]) => v === v);
// Returns the points [time, value] of the line that shows how a node of the tree has grown. Usually the value
// is that of the field `f`. If isByOwn() returns true, the value is the growth in private and resident bytes
// since the page was opened, or since the user started a measurement.
function growthOf(f, n) {
	if (!isByOwn(f, n)) return dotsOf(f, n);
	return since().points.filter(p => p.columns.has('own'))
		.map(p => [p.t, change(f, n, (f, n) => valueAt(p, f, n))]).filter(([, v]) => v === v);
}
// Returns the slope, per second, of a least-squares line through the points. Returns NaN for fewer than three
// points.
function slopeOf(dots) {
	const n = dots.length;
	if (n < 3) return NaN;
	let t = 0, v = 0, up = 0, down = 0;
	for (const [x, y] of dots) t += x / n, v += y / n;
	for (const [x, y] of dots) up += (x - t) * (y - v), down += (x - t) ** 2;
	return down > 0 ? up / down : NaN;
}
// Matches the kinds of parts that fastest() skips.
const NO_USE = /^(difference|free|other_pods|remainder)$/;
// Returns the command, or the part of the memory of a cgroup, that grows fastest. Returns null if no growth
// is large enough to show.
function fastest(f) {
	const grown = [];
	for (const n of nodes) {
		if (n.level !== 'comm' && n.level !== 'part' || NO_USE.test(n.kind) || !isKept(n)) continue;
		const v = change(f, n);
		if (v > 0 && matters(f, n, v)) grown.push([v, n]);
	}
	let best = null;
	for (const [, n] of grown.sort(([a], [b]) => b - a).slice(0, 20)) {
		const slope = slopeOf(growthOf(f, n));
		if (slope > (best?.slope || 0)) best = { n, slope };
	}
	return best;
}
// Returns an SVG path through the points, in a box with margins of 1 on the left and right, and of 2 above
// and below. The value `middle` is drawn at half the height, and the value `middle` + `half` below the upper
// margin.
function lineOf(dots, width, height, middle, half) {
	const [first] = since().points, length = since().points.at(-1).t - first.t;
	if (!(length > 0) || dots.length < 2) return '';
	const x = t => (1 + (t - first.t) / length * (width - 2)).toFixed(1),
		y = v => ((height / 2) - (v - middle) / half * (height / 2 - 2)).toFixed(1);
	return 'M' + dots.map(([t, v]) => `${x(t)} ${y(v)}`).join('L');
}
// Returns the lowest and the highest value of the points, and the range to draw: `middle`, plus or minus
// `half`. The range has a minimum size, so that noise does not look like a leak.
function rangeOf(dots) {
	let low = Infinity, high = -Infinity;
	for (const [, v] of dots) low = min(low, v), high = max(high, v);
	return { low, high, middle: (low + high) / 2, half: max((high - low) / 2, high / 100, 1) };
}

// ---- A reload of the page keeps as many of the remembered values as fit into a few MB of JSON

function pack(names, budget = 250000) {
	names = [...new Set(names)].filter(name => fields.has(name) && isThere(fields.get(name)));
	let list = nodes.filter(live);
	for (const level of [...LEVELS].reverse()) if (list.length * (names.length + 4) > budget)
		list = list.filter(n => n.level !== level);
	const index = new Map(list.map((n, k) => [n, k])), lines = names.slice(0, 3);
	const most = max(2, floor(budget / (list.length + 1) / lines.length)), pick = c => c && list
		.map(n => c[n.i] ?? NaN).map(v => v !== v ? null : round(v));
	return JSON.stringify({
		identity, nodes: list.map(n => n === root ? 0 : [index.get(n.up), n.level, n.name]),
		spans: [opened, marked].map(s => s && {
			t: s.base.t, gap: s.gap, base: names.map(name => [name, pick(s.base.columns.get(name))]),
			points: s.points.filter((_, k, all) => (all.length - 1 - k) % ceil(all.length / most) === 0)
				.map(p => [p.t, lines.map(name => [name, pick(p.columns.get(name))])]),
		}),
	});
}
// Restores the values that pack() saved before the page was reloaded. The first exposition must already be in
// the tree, because unpack() looks up the saved nodes in the tree. For values that pack() did not save,
// growth is counted from the reload on.
function unpack(text, t) {
	const saved = JSON.parse(text);
	if (saved.identity !== identity) {
		hasBegunAgain = true;
		return;
	}
	const levels = new Set(saved.nodes.map(n => n ? n[1] : 'node')), where = [];
	saved.nodes.forEach((n, k) => {
		const kid = n ? where[n[0]]?.by?.get(n[2]) : root;
		where[k] = kid && (!n || kid.level === n[1]) ? kid : null;
	});
	const fill = (c, values) => {
		where.forEach((n, k) => { if (n) c[n.i] = values[k] ?? NaN; });
		return c;
	};
	const columns = (type, list, make) => new Map(list.filter(([name, values]) => values && fields.has(name))
		.map(([name, values]) => [name, fill(make(type, name), values)]));
	const nothing = type => new type(nodes.length).fill(NaN);
	const now = (type, name) => new type(nodes.length).map((_, k) => levels.has(nodes[k].level)
		? NaN : fields.get(name).now[k]);
	[opened, marked] = saved.spans.map(s => {
		if (!s || !(s.t < t)) return undefined;
		const base = pointOf(Float64Array, s.t);
		for (const [name, c] of columns(Float64Array, s.base, now)) base.columns.set(name, c);
		return { base, gap: s.gap, points: s.points.map(([t, list]) => ({ t, columns: columns(Float32Array, list,
			nothing) })) };
	});
}
