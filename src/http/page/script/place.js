// Keeps the selection in the fragment of the URL:
// #/namespace/pod/container/comm/path?by=path&field=rss&sort=-change&q=text&rows=containers

const $ = {};
for (const el of document.querySelectorAll('[id]')) $[el.id] = el;
function make(tag, set, ...inner) {
	const el = Object.assign(document.createElement(tag), set);
	el.append(...inner);
	return el;
}
// Sets the text of an element, but only if it has changed. Otherwise a refresh would clear selected text, and
// screen readers would read the element again.
function put(el, text) { if (el.textContent !== text) el.textContent = text; }
function putValue(el, text, value) { put(el, text); el.dataset.value = value; }

let state;
function fromHash() {
	const [path, query] = location.hash.slice(1).split('?'), get = new URLSearchParams(query);
	let names = [];
	// Only the first eight names in the address are used, because the tree has eight levels (LEVELS in
	// tree.js).
	try {
		names = path.split('/', 9).slice(1).map(decodeURIComponent);
	} catch { /* An invalid link leads to the node. */ }
	if (names.length === 1 && !names[0]) names = [];
	state = { at: names, by: get.get('by') === 'path' ? 'path' : '', field: get.get('field') || '',
		sort: get.get('sort') || '', q: (get.get('q') || '').slice(0, 500),
		rows: get.get('rows') === 'containers' ? 'containers' : '' };
}
function hashOf(changes) {
	const { at, ...rest } = { ...state, ...changes }, query = new URLSearchParams(Object.entries(rest)
		.filter(([, value]) => value)).toString();
	return '#/' + at.map(encodeURIComponent).join('/') + (query && '?' + query);
}
function select(changes) {
	history.replaceState(null, '', hashOf(changes));
	fromHash();
	draw();
}
const namesOf = n => n.up ? [...namesOf(n.up), n.name] : [];
const hrefOf = n => hashOf({ at: namesOf(n), by: n.members ? 'path' : pivot && isIn(pivot, n) ? 'path' : '',
	q: '', ...live(n) ? {} : { field: CHARGED } });
// Returns the link from the shown node to the node that encloses it. If the shown node no longer exists, the
// link leads to the innermost enclosing node that still exists.
function outerHref() {
	if (place) return hrefOf(outsideOf(place));
	let at = state.at;
	do at = at.slice(0, -1); while (at.length && !findPlace(at));
	return hashOf({ at, q: '' });
}
function findPlace(names = state.at) {
	let n = state.by && canPivot() ? getPivot() : root;
	for (const name of names) n = n?.by?.get(name);
	return n && live(n) ? n : null;
}
