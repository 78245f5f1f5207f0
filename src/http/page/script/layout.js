// Lays out the treemap. Each node has the area `v`. The layout sets the rectangle of a node: x, y, w and h.

// Returns the size step of a node. A step is a range of sizes, and the largest size in a step is 1.4 times
// the smallest. Tiles are sorted by their steps instead of their sizes. A node changes its step only if its
// value is clearly outside the step. So tiles keep their places while sizes change a little.
function stepOf(n, scale) {
	const exact = 2 * Math.log2(n.v);
	if (n.scale !== scale || abs(exact - n.step - .5) > 1) [n.scale, n.step] = [scale, floor(exact)];
	return n.step;
}

// Arranges nodes as squarified rows (Bruls, Huizing and van Wijk, 2000). Larger nodes come first. Nodes of
// about the same size (see stepOf()) are sorted by age.
function squarify(list, x, y, w, h, scale) {
	let total = 0;
	for (const n of list) {
		total += n.v;
		n.order = stepOf(n, scale);
		n.age ??= ++ages;
	}
	list.sort((a, b) => b.order - a.order || a.age - b.age);
	const unit = w * h / total;
	for (let k = 0, end = 0; k < list.length;) {
		const wide = w >= h, side = max(1e-9, wide ? h : w);
		let sum = 0, worst = Infinity, large = 0, small = Infinity, along = wide ? y : x;
		for (; end < list.length; end++) {
			const area = list[end].v * unit, s = sum + area, l = max(large, area), m = min(small, area);
			const ratio = max(side * side * l / (s * s), s * s / (side * side * m));
			if (ratio > worst) break;
			[worst, sum, large, small] = [ratio, s, l, m];
		}
		end = max(end, k + 1);
		const thick = sum / side;
		for (; k < end; k++) {
			const n = list[k], from = along;
			along += n.v * unit / thick;
			n.x = round(wide ? x : from);
			n.y = round(wide ? from : y);
			n.w = round(wide ? x + thick : along) - n.x;
			n.h = round(wide ? along : y + thick) - n.y;
		}
		if (wide) x += thick, w -= thick; else y += thick, h -= thick;
	}
}
let ages = 0;

const isArea = n => n.v > 0 && n.v < Infinity;
const withArea = n => n.kids.filter(isArea);

// Lays out the tree inside the node `place`. Returns two lists of nodes. `groups` are drawn first, each one
// before the groups inside it. `tiles` are drawn over the groups, in colour. The parameter `drawn` is the
// number of the current drawing. Each node that has a rectangle stores this number in its property `drawn`.
function layOut(place, width, height, scale, drawn) {
	const groups = [], tiles = [];
	function divide(list, x, y, w, h, depth) {
		squarify(list, x, y, w, h, scale);
		for (const n of list) {
			n.drawn = drawn;
			const names = [n.text];
			let some = withArea(n), last = n;
			// If a group has only one child, and the child has children, the two become one group that shows both
			// names. An example is a pod with one container that runs one command.
			while (some.length === 1 && some[0].kids.length) {
				const [only] = some;
				Object.assign(only, { x: n.x, y: n.y, w: n.w, h: n.h, drawn });
				if (last === n && n.level === 'namespace') names[0] = only.full;
				else if (only.level !== 'namespace' && only.text !== last.text) names.push(last.level === 'namespace'
					? only.full : only.text);
				last = only;
				some = withArea(only);
			}
			if (!some.length || n.w < 4 || n.h < 4) {
				tiles.push(n);
				continue;
			}
			const pad = n.w > 24 && n.h > 24 ? depth ? 2 : 3 : 0, head = n.w > 46 && n.h > 34
				? depth ? 16 : 19 : pad;
			groups.push({ n, depth, names: head > pad ? names : null });
			divide(some, n.x + pad, n.y + head, n.w - 2 * pad - 1, n.h - head - pad - 1, depth + 1);
		}
	}
	divide(withArea(place), 0, 0, width, height, 0);
	return { groups, tiles };
}
// Sets the area `v` of a node to the node's value in a field. Does the same for each node below it.
function weigh(n, f) {
	n.v = live(n) ? at(f, n) : NaN;
	for (const k of n.kids) weigh(k, f);
}
function largestKind(n) {
	while (n.kids.length) n = n.kids.reduce((a, b) => b.v > (a.v || 0) ? b : a);
	return n.kind;
}
// Returns two nodes at a point: `n` is the innermost node, and `enter` is the node that a click opens. A
// click opens the outermost node at the point, except that it opens a pod instead of the pod's namespace.
function hitIn(place, x, y, drawn) {
	let n, enter;
	for (let k = place; k;) {
		k = k.kids.find(k => k.drawn === drawn && x >= k.x && x < k.x + k.w && y >= k.y && y < k.y + k.h);
		if (!k) break;
		n = k;
		if (!enter || enter.level === 'namespace') enter = k;
	}
	return n && { n, enter };
}
