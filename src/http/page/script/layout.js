// Lays out the treemap. Each node has the area `v`. The layout sets the rectangle of a node: x, y, w and h.

// Returns the size of a node in steps of factor 1.4. Small changes keep the step, so that tiles keep their
// places.
function stepOf(n, scale) {
	const exact = 2 * Math.log2(n.v);
	if (n.scale !== scale || abs(exact - n.step - .5) > 1) [n.scale, n.step] = [scale, floor(exact)];
	return n.step;
}

// Arranges nodes as squarified rows (Bruls, Huizing and van Wijk, 2000). Within a size step, older nodes come
// first.
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

// Lays out the tree inside `place`. Returns `groups`, each before the groups inside it, and `tiles`, which
// are drawn over them.
function layOut(place, width, height, scale, drawn) {
	const groups = [], tiles = [];
	function divide(list, x, y, w, h, depth) {
		squarify(list, x, y, w, h, scale);
		for (const n of list) {
			// In each drawing, the nodes that get a rectangle get the drawing's number.
			n.drawn = drawn;
			const names = [n.text];
			let some = withArea(n), last = n;
			// A group and its only child become one group with both names, for example a pod and its only
			// container.
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
// Returns the innermost node `n` at a point, and the node `enter` that a click opens: the outermost, with
// pods preferred to namespaces.
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
