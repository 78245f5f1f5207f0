// Makes a PromQL query for the numbers on display. The query returns one number for each row of the table. If
// the table has no rows, the query returns the number of the selected node of the tree.

// PromQL's lexer rejects the character U+FFFD as invalid UTF-8, but accepts the escape \ufffd.
const quote = s => '"' + s.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n').replace(/\ufffd/g, '\\ufffd')
	+ '"';
const literal = text => text.replace(/[\\^$.|?*+()[\]{}]/g, '\\$&');
const oneOf = (label, names) => names.length === 1 ? `${label}=${quote(names[0])}`
	: `${label}=~${quote(names.map(literal).join('|'))}`;
const PIVOT_LEVELS = ['namespace', 'pod', 'comm'], OUTER = LEVELS.slice(0, 3);

// Whether there is a query for the numbers on display. For charged memory and node memory, there is no query
// if the table is by path, or if a search finds commands, paths or parts. Such a query would have to join all
// metrics of this memory.
function hasQuery() {
	if (!place || place.kids.length && !rows.length) return false;
	return !layer || !state.by && at(field, place) >= 0 && (!state.q || isListing()
		|| rows.every(n => OUTER.includes(n.level)));
}
function promql() {
	const [node] = infos('node', 'node'), where = node === undefined ? [] : ['node=' + quote(node)], names = [];
	for (let n = place; n.up; n = n.up) if (n.level !== 'part') names.unshift([n.level, n.name]);
	where.push(...names.map(([level, name]) => `${level}=${quote(name)}`));
	const below = (levels, to) => levels.slice(levels.indexOf(place.level) + 1, levels.indexOf(to) + 1);
	if (!place.kids.length) {
		if (place.level === 'part') return partsOf(where, [place])[0] || restOf(where, place.up);
		return place.members || field.name === 'uss' ? sumOf(names.map(([level]) => level), where, place.level)
			: selectorOf(where, place.level);
	}
	const alternatives = [];
	for (const level of new Set(rows.map(n => n.level))) {
		const some = rows.filter(n => n.level === level);
		if (level === 'part') {
			alternatives.push(...partsOf(where, some).map(part => `sum by (part) (${part})`));
			for (const { kind } of some.filter(n => REST.test(n.kind)))
				alternatives.push(`label_replace(${restOf(where, place)}, "part", "${kind}", "", "")`);
			continue;
		}
		const by = isListing() ? below(LEVELS, 'container') : isByPath(some[0]) ? [level] : state.q
			? below(place.members ? PIVOT_LEVELS : LEVELS, level)
			: level === 'pod' && place.level !== 'namespace' ? ['namespace', 'pod'] : [level];
		for (const match of state.q ? foundBy(some, level) : [[]])
			alternatives.push(sumOf(by, [...where, ...match], level));
	}
	return alternatives.join(' or ');
}
function selectorOf(where, level) {
	const isUss = field.name === 'uss', depth = LEVELS.indexOf(level), isOfPods = layer === NODE && depth < 2;
	const metric = !layer ? field.metric : depth > 2 ? FAMILY + 'pss_bytes' : (isOfPods ? POD : TILE)
		+ 'current_bytes';
	// USS is the sum of two families, so the selector matches both. The operator `+` cannot add them, because
	// with --omit-zero a series may exist in only one of the two families, and `+` would drop it.
	const all = isUss ? [`__name__=~"${FAMILY}private_(clean|dirty)_bytes"`, ...where] : where;
	return (isUss ? '' : metric) + (all.length ? `{${all}}` : '');
}
const sumOf = (by, where, level) => `sum by (${by.join(', ')}) (${selectorOf(where, level)})`;
const POD = 'cgroup_pod_memory_', NODE_METRIC = 'cgroup_node_memory_bytes',
	// Matches the kinds of tiles that show a rest: what is left of a memory use after everything else that
	// the page shows of it is subtracted. No metric has this value, so restOf() makes a query that subtracts.
	REST = /^(difference|rest|other_pods)$/;
// Returns PromQL selectors for the values of tiles in the treemap. A tile shows one part of the memory of a
// container, a pod or the node. Tiles of a kind that matches REST are skipped, because no metric has their
// values.
function partsOf(where, tiles) {
	const lists = new Map();
	for (const n of tiles) {
		if (REST.test(n.kind)) continue;
		const [, prefix, part] = /^(?:(unmapped|outside|node)_)?(.*)/s.exec(n.name.slice(TILE.length));
		const metrics = { unmapped: TILE + 'unmapped_bytes', outside: POD + 'outside_containers_bytes',
			node: NODE_METRIC };
		const metric = metrics[prefix] || TILE + 'account_bytes';
		lists.set(metric, [...lists.get(metric) || NONE, part]);
	}
	return [...lists].map(([metric, list]) => `${metric}{${[...where, oneOf('part', list)]}}`);
}
// Returns a query for the rest of the memory use of a container, a pod or the node. In a container or pod,
// the rest is its memory use minus everything that is shown inside it. For the node, it is the use of all
// pods minus the use of the listed pods.
function restOf(where, n) {
	const isInside = n.level === 'pod' || at(fields.get('pss'), n) >= 0;
	const terms = n === root ? [`${NODE_METRIC}{${[...where, 'part="pods"']}}`, selectorOf(where, 'pod')]
		: [selectorOf(where, n.level), ...isInside ? [selectorOf(where, n.level === 'pod' ? 'container' : 'comm')]
			: [],
			...partsOf(where, n.account.tiles.map(([tile]) => tile))];
	return terms.map(term => `sum(${term})`).join(' - ');
}
// Returns a list of lists of PromQL label matchers, which select the nodes that a search has found on one
// level of the tree, for example pods. The caller makes one selector from each inner list, and joins the
// selectors with `or`. A matcher is usually a regular expression with the text of the search. But the search
// compares displayed names, and some of these differ from the labels. If the regular expression would select
// other nodes than the search has found, the matchers have the exact labels of the nodes.
function foundBy(found, level) {
	const q = asSearched(state.q), text = new RegExp(literal(q), 'iu'), isList = isListing();
	const levels = isList ? OUTER.slice(OUTER.indexOf(place.level) + 1) : level === 'pod' && q.includes('/')
		? OUTER.slice(0, 2) : [level];
	const names = n => namesOf(n.target || n).slice(-levels.length), isText = n => names(n)
		.some(name => text.test(name));
	const inside = n => kidsOf(n).flatMap(k => [k, ...inside(k)]);
	const all = isList ? containersOf(place) : inside(place === pivot ? root : place)
		.filter(n => n.level === level);
	if (all.every(n => (isList ? rows.includes(n) : matches(n, q)) === isText(n))) {
		return levels.filter((_, k) => found.some(n => text.test(names(n)[k])))
			.map(level => [`${level}=~${quote(`(?is).*${literal(q)}.*`)}`]);
	}
	const groups = new Map();
	for (const n of found) {
		const outer = names(n), name = outer.pop(), key = outer.map((name, k) => `${levels[k]}=${quote(name)}`)
			.join();
		groups.set(key, [...groups.get(key) || NONE, name]);
	}
	return [...groups].map(([key, names]) => [...key ? [key] : [], oneOf(levels.at(-1), names)]);
}
function drawCopy() {
	$.copy.disabled = !hasQuery();
	put($.copy, $.copy.disabled ? 'No PromQL for this' : 'Copy as PromQL');
}
