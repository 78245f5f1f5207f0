// Draws the page around the treemap: the totals of the node, the selected part of the tree with its chart,
// and the reason why the page is empty, if it is.

let latest, failure = '', trouble = '', place, field, kids = [], rows = [], limit = 200, paused = false,
	interval = 0;
const sampleOf = (name, labels = {}) => latest?.own.get(OWN + name)?.find(s => Object.entries(labels)
	.every(([k, v]) => s.labels.get(k) === v));
const own = (name, labels) => sampleOf(name, labels)?.value;
const denied = () => own('read_errors_total', { reason: 'denied' });
const infos = (name, label) => (latest?.own.get(OWN + name + '_info') || []).map(s => s.labels.get(label))
	.filter(text => text !== undefined);
// Returns the fields that a treemap can show. Page sizes are left out, because they do not add up.
// `processes` is left out, because mappings have no value in this field.
const offered = () => [...fields.values()].filter(f => f.name !== 'processes' && !f.largest && !f.isHidden
	&& isThere(f));

function draw() {
	if (!latest) return drawStates();
	const list = offered(), q = asSearched(state.q);
	field = [state.field, 'pss', 'rss'].map(name => list.find(f => f.name === name)).find(Boolean)
		|| list.find(f => !LAYERS.includes(f.name)) || fieldOf(FAMILY + 'pss_bytes');
	layer = LAYERS.includes(field.name) ? field.name : '';
	place = findPlace();
	kids = place ? insideOf(place) : [];
	rows = !place ? [] : isListing() ? containersOf(place)
		.filter(n => matches(n, q) || lowerFull(n).includes(q)) : q ? search(place === pivot ? root : place, q)
			: kids;
	drawStats(list);
	drawNode();
	drawStates();
	drawHere();
	drawMap();
	drawCharged();
	drawTable();
	drawOoms();
	drawCopy();
	hover();
	const node = infos('node', 'node').map(visible)[0];
	document.title = (place?.up ? place.full + ' · ' : '') + 'Memory map · ' + (node || location.host);
	put($.host, [node, location.host].filter(Boolean).join(' · '));
}

const TOTALS = ['pss', 'rss', 'uss', 'swap', 'containers', 'processes'];
for (const key of [...TOTALS, 'grows_fastest']) {
	$.stats.append(make('div', {}, make('dt', {}, title(key)),
		$[key] = make('dd', { id: 'node-' + key }, '–')));
}
const grower = make('a', {}), growth = make('span', {});
const FIRST = ['pss', 'uss', 'rss', 'swap'];
const GROUPS = { 'Most used': FIRST, 'Private and shared': /^(private|shared|pss|size)/,
	'By state of the pages': /^(anonymous|lazyfree|ksm|locked|referenced|swap)/, 'Huge pages': /huge|pmd/,
	'By cgroup': /^(charged|node)_/, 'Other fields': /./ };
function drawStats(list) {
	for (const key of TOTALS) {
		const f = fields.get(key), v = own(key) ?? f?.now[0] ?? NaN;
		putValue($[key], f?.bytes ? size(v) : count(v), v);
	}
	const best = fastest(field), { grows_fastest } = $;
	if (best) {
		const { n } = best, pod = podOf(n);
		grower.href = hrefOf(n);
		grower.title = namesOf(n).map(visible).join(' › ');
		const commands = n.level === 'part' ? kidsOf(n.up).filter(k => k.level === 'comm') : [],
			text = commands.length === 1 ? `${commands[0].text}: ${n.text}` : n.text;
		if (grower.node !== n) grower.replaceChildren(make('bdi', {}, text), ' ',
			make('small', {}, make('bdi', {}, pod.up ? pod.full : '')));
		grower.node = n;
		put(growth, slope(field, best.slope));
		if (!growth.isConnected) grows_fastest.replaceChildren(growth, ' ', grower);
	} else if (growth.isConnected || grows_fastest.textContent === '–')
		grows_fastest.replaceChildren(make('small', {}, 'nothing grows'));
	const up = own('containerd_up'), filters = infos('filter', 'filter').map(visible);
	put($.containerd, up === undefined ? '' : up ? 'containerd answers' : 'containerd does not answer');
	$.containerd.classList.toggle('bad', up === 0);
	put($.filters, filters.length ? 'filter ' + filters.join(', ') : '');
	$.filters.title = filters.join('\n');
	const names = String(list.map(f => f.name));
	if ($.field.names !== names) {
		$.field.names = names;
		const left = new Set([...FIRST.map(name => fields.get(name)).filter(f => list.includes(f)), ...list]),
			groups = [];
		for (const [label, which] of Object.entries(GROUPS)) {
			const some = [...left].filter(f => which.test ? which.test(f.name) : which.includes(f.name));
			some.forEach(f => left.delete(f));
			if (some.length) groups.push(make('optgroup', { label },
				...some.map(f => make('option', { value: f.name, title: f.help }, title(f.name)))));
		}
		$.field.replaceChildren(...groups);
	}
	$.field.value = field.name;
}
// Returns how many seconds ago the last scrape ended. `skew` is how far the browser's clock is ahead of the
// exporter's clock. If the clocks differ by at most 3 s, poll.js sets `skew` to 0, because the exporter's
// Date header has only whole seconds.
const ageNow = () => max(.1, Date.now() / 1000 - latest.skew - latest.t);
// Returns whether the values are too old, which means older than four scrape intervals and older than 20 s.
// If the interval is not known, they are too old after two minutes.
const isOld = () => ageNow() > (interval ? max(20, 4 * interval) : 120);
const isBehind = () => own('oldest_data_seconds') > max(60, 10 * interval);
function drawAge() {
	if (!latest) return;
	const age = ageNow(), oldest = own('oldest_data_seconds') + (performance.now() - latest.at) / 1000;
	const folded = (latest.own.get(OWN + 'folded_paths') || []).reduce((sum, sample) => sum + sample.value, 0);
	put($.footer, ['smaps-container-exporter ' + (infos('build', 'version')[0] || ''),
		`scraped ${span(age)} ago in ${span(own('scrape_duration_seconds'))}`,
		oldest > 5 && 'oldest value ' + span(oldest), count(own('samples')) + ' samples',
		folded && count(folded) + ' of the smallest paths are folded into [other]'].filter(Boolean).join(' · '));
	const word = paused ? 'Paused at ' + clock(latest.t) : failure || trouble || isOld() || silence()
		? 'Old: ' + clock(latest.t) : 'Live';
	put($.state, word);
	drawAgo();
	$.state.className = 'chip ' + (word === 'Live' ? 'down' : 'bad');
	drawNote();
}
// The time at which the page sent the request that it waits for, or 0 if it waits for no response.
let askedAt = 0;
// Returns for how many seconds the page has waited for a response. A wait of up to 3 s counts as 0.
function silence() {
	const seconds = askedAt ? (performance.now() - askedAt) / 1000 : 0;
	return seconds > 3 ? seconds : 0;
}
function noteText() {
	if (!latest) return '';
	const at = clock(latest.t);
	if (failure) return `The exporter does not answer (${failure}). The values are from ${at}.`;
	if (silence()) return `The exporter has not answered for ${span(silence())}. The values are from ${at}.`;
	if (trouble) return `${trouble} The values are from ${at}.`;
	if (isOld() && !paused) return `The values are old. The exporter answers, but last scraped at ${at}.`;
	if (why()) return '';
	if (own('containerd_up') === 0) return 'containerd does not answer: only known containers are read.';
	if (latest.rising) return `The kernel denies reads of some processes (${count(denied())} times so far).`;
	if (own('stuck_processes') > 0) {
		return `Left out: ${count(own('stuck_processes'))} processes that cannot be read, because their `
			+ 'memory-map lock is held.';
	}
	if (isBehind()) {
		return 'Some values are over a minute older than the rest: their processes are slow to read, '
			+ 'or the CPU budget is too small.';
	}
	if (hasBegunAgain && latest.t < opened.base.t + 60) {
		const which = [...infos('node', 'node'), 'started at ' + clock(latest.own.get(START)?.[0].value)];
		return `Another exporter answers now (${which.map(visible).join(', ')}): the history begins again.`;
	}
	return latest.broken ? `${count(latest.broken)} lines of the answer are invalid and were skipped.` : '';
}
function drawNote() {
	const note = noteText();
	$.note.hidden = !note;
	put($.note, note);
}

// Matches the fields that count a shared page in full for each process. PSS, private pages and some other
// fields do not.
const IN_FULL = /^(rss|size|shared_|referenced|anonymous|ksm|lazyfree|anon_huge|shmem_pmd|file_pmd|swap$)/;
function drawHere() {
	const key = hashOf({ field: '', sort: '', q: '', rows: '' });
	if ($.crumbs.key !== key) {
		$.crumbs.key = key;
		$.crumbs.replaceChildren(...['Node', ...state.at.map(name => name.startsWith(TILE)
			? tileOf(name.slice(TILE.length))[1] : visible(name) || '(none)')].map((name, k) => make('a', {},
			make('bdi', {}, name))));
		$.crumbs.lastChild.ariaCurrent = 'page';
	}
	[...$.crumbs.children].forEach((a, k) => { a.href = hashOf({ at: state.at.slice(0, k), q: '' }); });
	$['by-pod'].ariaPressed = !state.by;
	$['by-path'].ariaPressed = !!state.by;
	if (!place) return;
	const v = at(field, place), isLeaf = !place.kids.length, delta = change(field, place);
	const dots = dotsOf(field, place), range = rangeOf(dots), { middle, half } = range;
	putValue($.total, show(field, v) + ' ' + title(field.name), v);
	put($.share, place.up ? percent(v / field.now[0]) + ' of the node' : '');
	drawChange($.delta, place, delta, (isByOwn(field, place) ? ' of its own' : '') + ' since '
		+ sinceWhen('opening'));
	put($.slope, slope(field, slopeOf(growthOf(field, place))));
	$.slope.className = $.delta.className;
	put($.help, field.help + (IN_FULL.test(field.name)
		? ' Counts in full for each process that maps it; only PSS adds up.' : ''));
	// A leaf has no children, so its chart is shown in place of the treemap.
	$.chart.classList.toggle('big', isLeaf);
	const d = lineOf(dots, 600, isLeaf ? 240 : 64, middle, half), last = since().points.at(-1).t;
	$.line.setAttribute('viewBox', `0 0 600 ${isLeaf ? 240 : 64}`);
	$.line.firstElementChild.setAttribute('d', d);
	put($.high, d ? show(field, middle + half) : '');
	put($.low, d ? show(field, max(0, middle - half)) : '');
	put($.from, clock(since().points[0].t));
	put($.to, clock(last));
	$.line.ariaLabel = `${title(field.name)} of ${place.full} from ${clock(since().points[0].t)} to `
		+ `${clock(last)}: ${show(field, range.low)} to ${show(field, range.high)}, `
		+ `${slope(field, slopeOf(dots)) || 'too short for a slope'}`;
	if ($.all.isLeaf !== isLeaf) $.all.open = $.all.isLeaf = isLeaf;
	if ($.all.open) $.all.replaceChildren($.all.firstElementChild,
		fieldsOf(place, [...fields.values()].filter(f => !f.isHidden && isThere(f))));
}
const sinceWhen = opening => marked || hasBegunAgain ? clock(since().base.t) : opening;
function drawChange(el, n, v, more = '') {
	putValue(el, (v ? (v > 0 ? '+' : '') + show(field, v) : v === 0 ? '±0' : '–') + more, v);
	el.className = !v || !matters(field, n, v) ? 'zero' : v > 0 ? 'up' : 'down';
}
function fieldsOf(n, list) {
	return make('dl', {}, ...list.map(f => make('div', { className: f === field ? 'on' : '', title: f.help },
		make('dt', {}, title(f.name)), make('dd', { className: at(f, n) ? '' : 'zero' }, show(f, at(f, n))))));
}
// Splits a name into a head and a tail. If there is little space, only the head is shortened, because names
// of replicas differ in the tail. Names of less than 15 characters are short enough. Names that are not ASCII
// may run from right to left, so they are not split either.
function cutName(text) {
	const head = /^[ -~]{15,}$/.test(text) ? text.length - 9 : text.length;
	return make('span', { className: 'cut' }, make('bdi', { className: 'head' }, text.slice(0, head)),
		make('bdi', { className: 'tail' }, text.slice(head)));
}

// Returns the reason why there is nothing to display, as precisely as the exposition allows. Returns null if
// there is something.
function why() {
	if (!latest) return failure ? ['The exporter does not answer', failure + '; trying again'] : trouble
		? ['This page has an error', trouble] : ['Reading the metrics'];
	const codes = list => list.map(text => make('code', {}, visible(text)));
	if (root.kids.some(live)) {
		return !place ? ['Nothing here now', 'The last scrape has no such place.',
			make('a', { href: outerHref() }, 'Go out')]
			: kids.length && !(at(field, place) > 0) ? ['No ' + title(field.name) + ' here',
				'All rows are 0.'] : null;
	}
	if (own('containerd_up') === 0) {
		return ['containerd does not answer', 'The exporter knows no container. Check that containerd runs, and '
			+ 'that --containerd-sock names its socket.'];
	}
	if (latest.rising) {
		return ['The kernel denies the reads', `${count(denied())} reads were denied. The exporter must run `
			+ `as root with CAP_SYS_PTRACE.`];
	}
	if (own('containers') === 0) {
		return ['No container runs here', 'The container runtime lists none. Other containerd namespaces may '
			+ 'have some: see --containerd-namespace.'];
	}
	const namespaces = [...latest.own.values()].flat().map(s => s.labels.get('namespace')).filter(Boolean);
	return ['No container matches the filter', `The exporter knows ${count(own('containers'))} containers. `
		+ `None of their processes matches`, ...codes(infos('filter', 'filter')),
		...namespaces.length ? ['These namespaces exist:', ...codes([...new Set(namespaces)].sort())] : []];
}
function drawStates() {
	const reason = why(), isEmpty = !latest || !root.kids.some(live);
	$.empty.hidden = !reason;
	canvas.hidden = reason;
	$.map.hidden = !reason && !place.kids.length;
	$.list.hidden = !place?.kids.length;
	$.here.hidden = $.all.hidden = $.trend.hidden = !place || isEmpty;
	$.controls.hidden = $.stats.hidden = isEmpty;
	$.find.hidden = isEmpty || $.list.hidden;
	$.by.hidden = isEmpty || !canPivot();
	if (reason) {
		const box = make('div', {}, make('h2', {}, reason[0]), ...reason.slice(1)
			.map(text => make('p', {}, text)));
		if (box.textContent !== $.empty.textContent) $.empty.replaceChildren(box);
	}
	drawNote();
}
