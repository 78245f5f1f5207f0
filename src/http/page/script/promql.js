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
		if (place.level === 'part') return place.kind === 'difference' ? difference(where, place.up) : partOf(where, [place.kind]);
		return place.members || field.name === 'uss' ? sumOf(names.map(([level]) => level), where, place.level) : selectorOf(where, place.level);
	}
	const alternatives = [];
	for (const level of new Set(rows.map(n => n.level))) {
		const some = rows.filter(n => n.level === level);
		if (level === 'part') {
			const kinds = some.map(n => n.kind), unmapped = kinds.filter(kind => Object.hasOwn(UNMAPPED, kind)), parts = kinds.filter(kind => !unmapped.includes(kind) && kind !== 'difference');
			for (const list of [unmapped, parts]) if (list.length) alternatives.push(`sum by (part) (${partOf(where, list)})`);
			if (kinds.includes('difference')) alternatives.push(`label_replace(${difference(where, place)}, "part", "difference", "", "")`);
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
function partOf(where, kinds) {
	const isUnmapped = Object.hasOwn(UNMAPPED, kinds[0]), names = kinds.map(kind => kind.replace('unmapped_', ''));
	return `${TILE}${isUnmapped ? 'unmapped' : 'account'}_bytes{${[...where, oneOf('part', isUnmapped ? names : kinds)]}}`;
}
// What is left of a container's use after its other tiles.
function difference(where, container) {
	const kinds = container.account.tiles.map(([tile]) => tile.kind).filter(kind => kind !== 'difference'), unmapped = kinds.filter(kind => Object.hasOwn(UNMAPPED, kind));
	const terms = [selectorOf(where, 'container'), ...at(fields.get('pss'), container) >= 0 ? [selectorOf(where, 'comm')] : []];
	for (const list of [unmapped, kinds.filter(kind => !unmapped.includes(kind))]) if (list.length) terms.push(partOf(where, list));
	return terms.map(term => `sum(${term})`).join(' - ');
}
// The matchers that select what a search has found on one level: each list is an alternative. A regular expression will do unless
// names are shown in other characters than they have, or what was found is in two names; then the names themselves are listed.
function foundBy(found, level) {
	const q = asSearched(state.q), text = new RegExp(literal(q), 'iu'), pattern = quote(`(?is).*${literal(q)}.*`), names = n => isListing() ? below(n) : [n.name];
	const below = n => namesOf(n.target).slice(OUTER.indexOf(place.level) + 1), isText = n => names(n).some(name => text.test(name));
	const all = isListing() ? containersOf(place) : [], walk = isListing() ? [] : [...(place === pivot ? root : place).kids];
	while (walk.length) {
		const n = walk.pop();
		if (!live(n)) continue;
		if (n.level === level) all.push(n);
		walk.push(...n.kids);
	}
	const isFound = isListing() ? n => rows.includes(n) : n => matches(n, q);
	if (all.every(n => isFound(n) === isText(n))) {
		if (!isListing()) return [[`${level}=~${pattern}`]];
		const levels = OUTER.slice(OUTER.indexOf(place.level) + 1);
		return levels.filter((_, k) => found.some(n => text.test(below(n)[k]))).map(level => [`${level}=~${pattern}`]);
	}
	// A pod is found by its namespace's name, too.
	const groups = new Map();
	for (const n of found) {
		const outer = isListing() ? below(n).slice(0, -1) : level === 'pod' && n.up.level === 'namespace' ? [n.up.name] : [], key = JSON.stringify(outer);
		if (!groups.has(key)) groups.set(key, { outer, names: [] });
		groups.get(key).names.push((isListing() ? n.target : n).name);
	}
	return [...groups.values()].map(({ outer, names }) => [
		...outer.map((name, k) => `${isListing() ? OUTER[OUTER.indexOf(place.level) + 1 + k] : 'namespace'}=${quote(name)}`), oneOf(isListing() ? 'container' : level, names)]);
}
function drawCopy() {
	$.copy.disabled = !hasQuery();
	put($.copy, $.copy.disabled ? 'No PromQL says this' : 'Copy as PromQL');
}
