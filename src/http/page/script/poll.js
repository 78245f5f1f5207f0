// Handles the controls, and refreshes the page after each scrape.

$.copy.onclick = async () => {
	if (!place) return;
	const query = promql();
	try {
		await navigator.clipboard.writeText(query);
	} catch { // The clipboard requires TLS or localhost.
		prompt('The query', query);
	}
	put($.said, 'Copied ' + query);
	put($.copy, 'Copied');
	setTimeout(drawCopy, 1500);
};
$.field.onchange = () => select({ field: $.field.value });
$.q.oninput = () => { limit = 200; select({ q: $.q.value }); };
$.q.onkeydown = e => {
	if (e.key === 'Enter' && !e.isComposing && state.q && rows.length) location.hash =
		hrefOf(entered(targetOf(first)));
};
$['by-pod'].onclick = () => { location.hash = hashOf({ by: '', at: [] }); };
$['by-path'].onclick = () => { location.hash = hashOf({ by: 'path', at: place && isByPath(place)
	? [place.name] : [] }); };
$.mark.onclick = () => { marked = begin(latest.t); draw(); };
$.unmark.onclick = () => { marked = undefined; draw(); $.mark.focus(); };
$.more.onclick = () => { limit += 500; draw(); };
$.all.ontoggle = () => draw();
$.pause.onclick = () => {
	paused = !paused;
	$.pause.ariaPressed = paused;
	put($.pause, paused ? 'Resume' : 'Pause');
	drawAge();
	poll();
};
document.onkeydown = e => {
	// Does not handle keys that belong to an input method or to the browser.
	if (e.isComposing || e.ctrlKey || e.altKey || e.metaKey) return;
	if (e.key === 'Escape') {
		if (!tip.hidden) hover(null);
		if (state.q) select({ q: $.q.value = '' });
		else if (state.at.length) location.hash = outerHref();
	} else if (e.key === '/' && !/INPUT|SELECT/.test(e.target.tagName)) {
		e.preventDefault();
		$.q.focus();
	}
};
onhashchange = () => {
	const isInside = $.rows.contains(document.activeElement);
	fromHash();
	limit = 200;
	$.q.value = state.q;
	draw();
	if (isInside) ($.rows.querySelector('a') || $.crumbs.lastChild).focus();
	if (latest && place) put($.said, `${place.full.slice(0, 200)}: `
		+ `${$.total.textContent}, ${rows.length} rows`);
};
new ResizeObserver(() => draw()).observe($.map);
matchMedia('(prefers-color-scheme: dark)').onchange = () => draw();

// ---- State that a reload keeps

const KEPT = 'memory-map ' + location.pathname;
function keep() {
	if (!latest || !opened) return;
	try {
		sessionStorage.setItem(KEPT, pack([field.name, 'own', 'held', ...NUMBERS]));
	} catch { /* No storage is left: a reload starts from zero. */ }
}
function recall(t) {
	try {
		const text = sessionStorage.getItem(KEPT);
		if (text) unpack(text, t);
	} catch { // The text is not from this page.
		opened = marked = undefined;
	}
}
onpagehide = keep;
document.onvisibilitychange = () => document.hidden ? keep() : poll();

// ---- Refreshing

let timer, early = 0, changes = 0, busy = false, wasLong = false;
const started = performance.now();

// Returns how many seconds to wait before the next poll. `t` is the time of the scrape in the last answer.
// The page measures the interval between scrapes. Until the interval is measured, each wait is half as long
// as the page has been open.
//
// After a poll with a new scrape, the page waits for one interval. After a poll without a new scrape, the
// page waits for an eighth of the interval. While no new scrape comes, each wait is 1.5 times as long as the
// wait before, up to one interval.
//
// A pause of the exporter can make the measured interval too long. So after every eighth new scrape, the page
// waits for only half an interval, and notices if scrapes follow each other faster.
function pace(t) {
	if (!latest || t === latest.t) return interval ? min(interval, max(.1, interval / 8) * 1.5 ** early++)
		: max(.5, (performance.now() - started) / 2000);
	// `gap` is the time between the last two scrapes that the page saw. If it is shorter than the interval,
	// it becomes the new interval. If it is longer, the page may have missed a scrape. So it becomes the
	// interval only if the page has polled in between (`early` counts these polls). If it is longer than
	// three intervals, the exporter may have paused. Then the gap before must also have been that long
	// (`wasLong`).
	const gap = t - latest.t, isLong = interval && gap > 3 * interval;
	if (!interval || gap < interval || early && (!isLong || wasLong)) interval = max(.5, gap);
	wasLong = isLong;
	early = 0;
	return ++changes % 8 ? interval : interval / 2;
}
// Fetches, reads and draws once. Returns how many seconds to wait before the next poll.
async function refresh() {
	let text = '', answer, start;
	const before = failure;
	failure = '';
	try {
		answer = await fetch('metrics?group-by=path&fields=all', { cache: 'no-store',
			signal: AbortSignal.timeout(30000) });
		start = performance.now();
		if (answer.ok) text = await answer.text();
		else failure = 'HTTP ' + answer.status;
	} catch (error) {
		failure = error.name === 'TimeoutError' ? 'no answer in 30 s' : 'no connection';
	}
	if (failure) {
		if (failure !== before) drawStates();
		return min(10, max(1, interval));
	}
	const stamp = text.lastIndexOf('\n' + OWN + 'last_scrape_timestamp_seconds '), line = stamp < 0
		? null : parseSample(text.slice(stamp + 1, text.indexOf('\n', stamp + 1)));
	const t = line?.value > 0 ? line.value : Date.now() / 1000, wait = pace(t);
	if (t === latest?.t && !trouble) {
		if (before) drawStates();
		return wait;
	}
	const { own, broken } = await read(text, latest && (() => new Promise(done => setTimeout(done))));
	const reads = own.get(OWN + 'read_errors_total')?.find(s => s.labels.get('reason') === 'denied')?.value
		|| 0;
	const skew = (Date.now() - Date.parse(answer.headers.get('date'))) / 1000, isFirst = !latest;
	commit();
	latest = { own, broken, t, denied: reads, rising: reads > (latest?.denied || 0), skew: abs(skew) > 3
		? skew : 0, at: performance.now() };
	identify(JSON.stringify([infos('node', 'node'), own.get(START)?.[0].value]));
	if (isFirst) recall(t);
	remember(t);
	trouble = '';
	draw();
	drawAge();
	askOoms();
	performance.clearMeasures();
	performance.measure('response to drawn', { start });
	return wait;
}
// Refreshes the page, waits, and begins again. Displays any error, even an error while drawing.
async function poll() {
	clearTimeout(timer);
	if (busy || paused) return;
	busy = true;
	const asked = askedAt = performance.now();
	let wait = 2;
	try {
		wait = await refresh();
	} catch (error) {
		trouble = `This page has an error: ${error.message}.`;
		console.warn(error);
	} finally {
		busy = false;
		askedAt = 0;
		if (!paused) timer = setTimeout(poll, max(50, min(15, wait) * 1000 - (performance.now() - asked)));
	}
	drawAge();
	if (!latest) drawStates();
}
setInterval(drawAge, 500);
put($.host, location.host);
fromHash();
$.q.value = state.q;
drawStates();
poll();
