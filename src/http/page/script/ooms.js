// Shows OOM records: the memory that a container held when the kernel killed a process in it.

let ooms = [], oomsText = '', isAskingOoms = false, hasOoms = false, failedOoms = 0, pauseOoms = 0,
	shownOoms = 3;

// Fetches the OOM records, at most once per scrape. Older exporters have no records, so nothing is fetched
// until the exposition has metrics that only newer exporters have. After a failed attempt, the next two
// scrapes are skipped. Each further failure doubles the number of skipped scrapes, up to 64. Meanwhile, the
// last records stay on display.
async function askOoms() {
	hasOoms ||= [...accounts.values()].some(hasParts) || [...latest.own.keys()].some(name =>
		name.startsWith(OWN + 'oom'));
	if (!hasOoms || isAskingOoms || pauseOoms-- > 0) return;
	isAskingOoms = true;
	pauseOoms = 0;
	try {
		const answer = await fetch('ooms', { cache: 'no-store', signal: AbortSignal.timeout(30000) }),
			text = await answer.text();
		if (!answer.ok) throw new Error('HTTP ' + answer.status);
		if (text !== oomsText) {
			ooms = readOoms(text);
			oomsText = text;
			drawOoms();
		}
		failedOoms = 0;
	} catch { // There are no readable records. The map works without them.
		pauseOoms = min(64, 2 ** ++failedOoms);
	} finally {
		isAskingOoms = false;
	}
}
const isOf = (r, names) => names.slice(0, 3).every((name, k) => name === r[LEVELS[k]]);
const cutLong = text => fit(visible(text), 300, text => text.length);
const nameOf = r => cutLong([[r.namespace, r.pod].filter(Boolean).join('/'), r.container].filter(Boolean)
	.join(' › '));
const LIMITS = { container: 'The limit of the container was hit. ', pod: 'The limit of the pod was hit. ',
	kubepods: 'A limit above the pod was hit. ', node: 'The node had no memory left. ' };
const dateOf = t => new Date(t * 1000);
const isDate = t => !isNaN(dateOf(t));
function ago(t) {
	const s = max(0, Date.now() / 1000 - latest.skew - t);
	return (s < 172800 ? span(s) : count(round(s / 86400)) + ' days') + ' ago';
}
function drawOoms() {
	const list = !latest ? [] : state.by || !state.at.length ? ooms : ooms.filter(r => isOf(r, state.at)),
		shown = list.slice(0, shownOoms);
	$.ooms.hidden = !list.length;
	if (!list.length) return;
	put($['ooms-count'], count(list.length) + (state.by || !state.at.length ? '' : ' here')
		+ (ooms.length >= MOST_RECORDS ? ` (the exporter keeps the last ${MOST_RECORDS})` : ''));
	$.older.hidden = list.length <= shownOoms;
	put($.older, `Show all ${count(list.length)}`);
	const key = JSON.stringify(shown);
	if ($.kills.key === key) return drawAgo();
	$.kills.key = key;
	const old = new Map([...$.kills.children].map(el => [el.key, el]));
	$.kills.replaceChildren(...shown.map(r => old.get(JSON.stringify(r)) || makeKill(r)));
	drawAgo();
}
function drawAgo() {
	for (const el of $.kills.children) put(el.ago, isDate(el.record.time) ? ago(el.record.time) : '');
}
$.older.onclick = () => { shownOoms = MOST_RECORDS; drawOoms(); };

function makeKill(r) {
	const when = isDate(r.time) ? `${dateOf(r.time).toLocaleDateString('sv')} ${clock(r.time)}`
		: 'at an unknown time';
	const time = make('time', {}, when), since = make('small', {}), use = makeUse();
	if (isDate(r.time)) time.dateTime = dateOf(r.time).toISOString();
	fillUse(use, accountOfKill(r), r.use_bytes);
	const el = make('details', { className: 'kill', key: JSON.stringify(r), record: r, ago: since },
		make('summary', {}, make('span', { className: 'when' }, time, ' ', since),
			make('span', { className: 'who', title: nameOf(r) }, make('bdi', {}, nameOf(r)), ' ',
			make('small', {}, make('bdi', {}, cutLong(r.command)))),
			make('span', { className: 'how' }, ...use.all)));
	// The content of a record is made when the user opens it, because most records are never opened.
	el.ontoggle = () => { if (el.open && el.children.length < 2) el.append(makeReading(r)); };
	return el;
}
function makeReading(r) {
	const largest = max(...r.paths.map(p => p.pss_bytes || 0), 1), entries = entriesOf(accountOfKill(r))
		.filter(([, v]) => v);
	const place = { at: [r.namespace, r.pod, r.container].filter((name, k) => k < 2 || name), by: '', q: '' };
	const one = p => `${cutLong(p.command)} (pid ${p.pid})`;
	const kills = (r.kills > 1 ? `${count(r.kills)} processes were killed. ` : '') + (r.victims.length
		? `Killed: ${r.victims.map(one).join(', ')}. ` : '');
	const hit = r.hit_limit_bytes >= 0 ? `Use: ${size(r.hit_use_bytes)} of ${size(r.hit_limit_bytes)}. ` : '';
	const outside = r.outside_containers_bytes > 0 ? `Outside the pod's running containers: `
		+ `${size(r.outside_containers_bytes)}. ` : '';
	const rss = r.processes.length ? ` RSS at the limit: `
		+ `${r.processes.map(p => `${one(p)} ${size(p.rss_bytes)}`).join(', ')}.` : '';
	const peak = r.peak_bytes >= 0 ? ` Peak: ${size(r.peak_bytes)}.` : '';
	const candidates = r.candidates.length ? ', perhaps ' + cutLong(r.candidates.join(' or ')) : '';
	const unselected = r.hasUnselected ? '; the pod also has containers that no filter selects' : '';
	const age = r.reading_age_seconds >= 0 ? span(r.reading_age_seconds) + ' ' : '';
	const where = r.container
		? `The container was last read ${age}before the kill; its processes then mapped `
			+ `${size(r.mapped_bytes)} (PSS).`
		: `The kill was in one of the pod's containers${candidates}${unselected}. `;
	const limit = Object.hasOwn(LIMITS, r.limit) ? LIMITS[r.limit] : '';
	const read = kills + limit + hit + outside + where + rss + peak;
	return make('div', { className: 'reading' }, make('p', {}, read, ' ', make('a', { href: hashOf(place) },
		r.container ? 'Show the container' : 'Show the pod')),
		make('div', {}, make('h3', {}, r.paths.length ? 'Largest paths, by PSS' : 'No path is known'),
			make('ol', {}, ...r.paths.map(p => {
			const bar = make('span', { className: 'use' }), filled = swatchOf(kindOf(p.path));
			filled.style.width = 100 * max(0, p.pss_bytes || 0) / largest + '%';
			bar.append(filled);
			return make('li', { title: cutLong(p.path) }, make('span', { className: 'size' }, size(p.pss_bytes)),
				bar, make('span', { className: 'what' }, make('bdi', {}, cutLong(p.path)), ' ',
				make('small', {}, make('bdi', {}, cutLong(p.command)), p.growth_bytes
				? ` ${p.growth_bytes < 0 ? '−' : '+'}${size(abs(p.growth_bytes))} in ${span(r.growth_seconds)}`
				: '')));
		}))),
		make('div', {}, make('h3', {}, entries.length ? 'What was charged' : 'What was charged is not known'),
			make('dl', {}, ...entries.map(([name, v, colour]) =>
			make('div', {}, make('dt', {}, swatchOf(colour), name), make('dd', {}, size(v)))))));
}
