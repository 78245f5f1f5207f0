// PromQL of what is on the screen: it answers each row with its number, or the place with its own where nothing is inside.

// U+FFFD itself is broken UTF-8 to PromQL's lexer; its escape is not.
const quote = s => '"' + s.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n').replace(/\ufffd/g, '\\ufffd') + '"';
const literal = text => text.replace(/[\\^$.|?*+()[\]{}]/g, '\\$&');
const oneOf = (label, names) => names.length === 1 ? `${label}=${quote(names[0])}` : `${label}=~${quote(names.map(literal).join('|'))}`;
const PIVOT_LEVELS = ['namespace', 'pod', 'comm'], OUTER = LEVELS.slice(0, 3);

// What is charged is one metric for containers and what is around them. By path it would take the join of all of them.
function hasQuery() {
	if (!place || place.kids.length && !rows.length) return false;
	return !isCharged || !state.by && at(field, place) >= 0 && (!state.q || isListing() || rows.every(n => OUTER.includes(n.level)));
}
function promql() {
	const [node] = infos('node', 'node'), where = node === undefined ? [] : ['node=' + quote(node)], names = [];
	for (let n = place; n.up; n = n.up) if (n.level !== 'part') names.unshift([n.level, n.name]);
	where.push(...names.map(([level, name]) => `${level}=${quote(name)}`));
	const below = (levels, to) => levels.slice(levels.indexOf(place.level) + 1, levels.indexOf(to) + 1);
	if (!place.kids.length) {
		if (place.level === 'part') return partsOf(where, [place])[0] || difference(where, place.up);
		return place.members || field.name === 'uss' ? sumOf(names.map(([level]) => level), where, place.level) : selectorOf(where, place.level);
	}
	const alternatives = [];
	for (const level of new Set(rows.map(n => n.level))) {
		const some = rows.filter(n => n.level === level);
		if (level === 'part') {
			alternatives.push(...partsOf(where, some).map(part => `sum by (part) (${part})`));
			if (some.some(n => n.kind === 'difference')) alternatives.push(`label_replace(${difference(where, place)}, "part", "difference", "", "")`);
			continue;
		}
		const by = isListing() ? below(LEVELS, 'container') : isByPath(some[0]) ? [level] : state.q ? below(place.members ? PIVOT_LEVELS : LEVELS, level)
			: level === 'pod' && place.level !== 'namespace' ? ['namespace', 'pod'] : [level];
		for (const match of state.q ? foundBy(some, level) : [[]]) alternatives.push(sumOf(by, [...where, ...match], level));
	}
	return alternatives.join(' or ');
}
function selectorOf(where, level) {
	const isUss = field.name === 'uss', metric = !isCharged ? field.metric : LEVELS.indexOf(level) < 3 ? TILE + 'current_bytes' : FAMILY + 'pss_bytes';
	// USS is two families, of which one may lack a series (--omit-zero): their sum by `+` would lack it too.
	const all = isUss ? [`__name__=~"${FAMILY}private_(clean|dirty)_bytes"`, ...where] : where;
	return (isUss ? '' : metric) + (all.length ? `{${all}}` : '');
}
const sumOf = (by, where, level) => `sum by (${by.join(', ')}) (${selectorOf(where, level)})`;
// The metrics of parts, of which `difference` is none.
function partsOf(where, tiles) {
	const kinds = tiles.map(n => n.kind).filter(kind => kind !== 'difference'), isUnmapped = kind => Object.hasOwn(UNMAPPED, kind);
	return [['unmapped', kinds.filter(isUnmapped)], ['account', kinds.filter(kind => !isUnmapped(kind))]].filter(([, list]) => list.length)
		.map(([metric, list]) => `${TILE + metric}_bytes{${[...where, oneOf('part', list.map(kind => kind.replace(/^unmapped_/, '')))]}}`);
}
// What is left of a container's use after its other tiles.
function difference(where, container) {
	return [selectorOf(where, 'container'), ...at(fields.get('pss'), container) >= 0 ? [selectorOf(where, 'comm')] : [], ...partsOf(where, container.account.tiles.map(([tile]) => tile))]
		.map(term => `sum(${term})`).join(' - ');
}
// The matchers that select what a search has found on one level: each list is an alternative. A regular expression will do unless
// names are shown in other characters than they have, or what was found spans two names; then the names themselves are listed.
function foundBy(found, level) {
	const q = asSearched(state.q), text = new RegExp(literal(q), 'iu'), isList = isListing();
	const levels = isList ? OUTER.slice(OUTER.indexOf(place.level) + 1) : level === 'pod' && q.includes('/') ? OUTER.slice(0, 2) : [level];
	const names = n => namesOf(n.target || n).slice(-levels.length), isText = n => names(n).some(name => text.test(name));
	const inside = n => kidsOf(n).flatMap(k => [k, ...inside(k)]);
	const all = isList ? containersOf(place) : inside(place === pivot ? root : place).filter(n => n.level === level);
	if (all.every(n => (isList ? rows.includes(n) : matches(n, q)) === isText(n))) {
		return levels.filter((_, k) => found.some(n => text.test(names(n)[k]))).map(level => [`${level}=~${quote(`(?is).*${literal(q)}.*`)}`]);
	}
	const groups = new Map();
	for (const n of found) {
		const outer = names(n), name = outer.pop(), key = outer.map((name, k) => `${levels[k]}=${quote(name)}`).join();
		groups.set(key, [...groups.get(key) || NONE, name]);
	}
	return [...groups].map(([key, names]) => [...key ? [key] : [], oneOf(levels.at(-1), names)]);
}
function drawCopy() {
	$.copy.disabled = !hasQuery();
	put($.copy, $.copy.disabled ? 'No PromQL says this' : 'Copy as PromQL');
}
