// Draws the treemap on its canvas, and its legend. Handles hovering and clicking.

const { canvas, tip } = $, ctx = canvas.getContext('2d');
let groups = [], tiles = [], drawing = 0;

const LEGEND = {
	anon: 'Private memory without a file, of no other kind: large allocations, direct buffers, tables of '
		+ 'garbage collectors, heaps of other languages.',
	anon_thread_stack: 'The used parts of thread stacks. Fewer threads or shallower calls reduce it; -Xss '
		+ 'and ulimit -s only limit it.',
	anon_malloc_arena: 'Arenas of glibc’s malloc for threads. They keep freed memory: MALLOC_ARENA_MAX=2 '
		+ 'allows fewer, malloc_trim() returns memory, jemalloc and mimalloc keep less.',
	anon_java_heap: 'The used part of a Java virtual machine’s heap, with garbage. -Xmx or '
		+ '-XX:MaxRAMPercentage limits it; a heap dump shows its objects.',
	anon_java_classes: 'Metaspace of a Java virtual machine. It grows with classes and class loaders; '
		+ '-XX:MaxMetaspaceSize limits it, jcmd VM.metaspace shows the loaders.',
	anon_jit_code: 'Machine code that a program generated. -XX:ReservedCodeCacheSize limits it in '
		+ 'Java, --jitless avoids it in V8.',
	anon_go_heap: 'The heap of a Go program, with garbage and free spans. GOMEMLIMIT limits it, a lower GOGC '
		+ 'collects sooner; pprof shows its content.',
	anon_v8_heap: 'The heap of V8 (Node.js, Chromium), or WebAssembly memory. --max-old-space-size limits it; '
		+ 'a heap snapshot shows its objects. Buffers are not in it.',
	anon_allocator: 'The heap of jemalloc or mimalloc, with free memory. MALLOC_CONF=dirty_decay_ms:0 or '
		+ 'MIMALLOC_PURGE_DELAY=0 returns that sooner.',
	heap: 'Memory from brk(): small malloc allocations in the main arena.',
	stack: 'The stack of a program’s main thread.',
	shm: 'Memory that processes share: /dev/shm, memfd, System V segments. “/dev/zero (deleted)” is an '
		+ 'anonymous shared mapping, such as PostgreSQL’s shared buffers.',
	file: 'Mapped pages of programs, libraries and files. Clean ones can be dropped and read again.',
	special: 'Mappings of the kernel or of devices: [vdso], [vvar], /dev/nvidia0 and the like.',
	other: 'The smallest paths of a command, summed by the exporter to stay within --max-samples.',
	all: 'Not divided by path or kind.',
};

function drawMap() {
	const width = $.map.clientWidth, height = $.map.clientHeight, ratio = devicePixelRatio;
	groups = [];
	tiles = [];
	drawing++;
	$.legend.hidden = canvas.hidden || $.map.hidden;
	if ($.legend.hidden) return;
	canvas.width = width * ratio;
	canvas.height = height * ratio;
	ctx.scale(ratio, ratio);
	ctx.textBaseline = 'middle';
	canvas.ariaLabel = `Treemap of ${place.full} by ${title(field.name)}; the table below has the same content`;
	weigh(place, field);
	({ groups, tiles } = layOut(place, width + 1, height + 1, field.name + state.by, drawing));
	const q = asSearched(state.q);
	if (q) mark(place, q, drawing);
	paint(q);
	drawLegend();
}
function isLit(n) {
	if (n.near === drawing) return true;
	for (; n !== place; n = n.up) if (n.hit === drawing) return true;
	return false;
}
function paint(q) {
	const css = getComputedStyle(document.body), colours = {}, measure = text => ctx.measureText(text).width;
	for (const name of [...Object.keys(KINDS), 'ink', 'muted', 'panel', 'deep']) colours[name] =
		css.getPropertyValue('--' + name);
	const text = (font, ink) => { ctx.font = font + ' ' + css.fontFamily; ctx.fillStyle = colours[ink]; };
	for (const { n, depth } of groups) {
		ctx.fillStyle = colours[depth % 2 ? 'deep' : 'panel'];
		ctx.fillRect(n.x, n.y, n.w - 1, n.h - 1);
	}
	for (const n of tiles) {
		n.isDim = q && !isLit(n);
		ctx.globalAlpha = n.isDim ? .18 : 1;
		ctx.fillStyle = colours[largestKind(n)];
		ctx.fillRect(n.x, n.y, n.w > 2 ? n.w - 1 : n.w, n.h > 2 ? n.h - 1 : n.h);
	}
	ctx.globalAlpha = 1;
	for (const { n, depth, names } of groups) {
		if (!names) continue;
		const parts = [names[0] === n.text ? labelOf(n) : names[0], ...names.slice(1)], value = show(field, n.v),
			y = n.y + (depth ? 9 : 10.5);
		text('11px', 'muted');
		const taken = measure(value) + 14, font = depth ? '11px' : '600 12px';
		text(font, 'ink');
		// The heading of a group has one or more names, and the value if there is room for it beside the first
		// name. If not all names fit, the last names are left out.
		const free = n.w - 12, isRoomy = measure(parts[0]) + taken <= free, left = isRoomy ? free - taken : free;
		while (parts.length > 1 && measure(parts.join(' › ')) > left) parts.pop();
		ctx.fillText(fitName(parts.join(' › '), left, measure), n.x + 6, y);
		text('11px', 'muted');
		if (isRoomy) ctx.fillText(value, n.x + n.w - taken + 6, y);
	}
	text('11px', 'ink');
	for (const n of tiles) {
		if (n.w < 34 || n.h < 15 || n.isDim) continue;
		const name = n.full.length * 6 < n.w - 10 ? n.full : labelOf(n);
		ctx.fillText(fitName(name, n.w - 9, measure) || fitName(labelOf(n), n.w - 9, measure),
			n.x + 5, n.y + min(11, n.h / 2));
		const value = show(field, n.v);
		if (n.h > 34 && measure(value) <= n.w - 9) ctx.fillText(value, n.x + 5, n.y + 25);
	}
}
// Returns a name, shortened to the width. If the whole name does not fit, a name such as [heap] first loses
// its brackets.
const fitName = (name, width, measure) => measure(name) <= width ? name :
	fit(name.replace(/^\[(.*)\]$/s, '$1'), width, measure);
// Returns the name that is written on a tile. The tile of a file has the file's base name. If other files in
// the same group have this base name, the tile also has as many folders as needed to distinguish the files.
function labelOf(n) {
	if (n.level !== 'path' || !n.dir) return n.text;
	const same = (n.up.named?.drawing === drawing ? n.up.named : n.up.named = { drawing,
		by: byName(n.up.kids.filter(isArea)) }).by.get(n.text);
	return same?.length > 1 ? n.short ||= shortest(n.full, same) : n.text;
}
function byName(list) {
	const by = new Map();
	for (const n of list) by.has(n.text) ? by.get(n.text).push(n.full) : by.set(n.text, [n.full]);
	return by;
}
function drawLegend() {
	const totals = {}, walk = [place];
	while (walk.length) {
		const n = walk.pop();
		if (n.kids.length) for (const k of n.kids) walk.push(k);
		else if (isArea(n)) totals[n.kind] = (totals[n.kind] || 0) + n.v;
	}
	const kinds = Object.keys(KINDS).filter(kind => kind in totals);
	if ($.legend.kinds !== String(kinds)) {
		$.legend.kinds = String(kinds);
		$.legend.replaceChildren(...kinds.map(kind => {
			const item = make('button', { className: 'kind' }, swatchOf(kind), KINDS[kind] + ' ',
				make('span', { className: 'muted' })), explain = () => explainKind(item, kind);
			Object.assign(item, { onpointerenter: explain, onfocus: explain, onclick: explain, onpointerleave: () =>
				hover(null), onblur: () => hover(null) });
			return make('li', {}, item);
		}));
	}
	kinds.forEach((kind, k) => put($.legend.children[k].firstChild.lastChild, show(field, totals[kind])));
}
function swatchOf(kind) {
	const swatch = make('i');
	swatch.style.background = `var(--${kind})`;
	return swatch;
}
function explainKind(item, kind) {
	const { left, top, bottom } = item.getBoundingClientRect();
	hover(null);
	explained = item;
	item.setAttribute('aria-describedby', 'tip');
	tip.replaceChildren(make('p', {}, make('b', {}, KINDS[kind])), make('p', {}, LEGEND[kind]));
	tip.hidden = false;
	const isLow = bottom + tip.offsetHeight + 14 > innerHeight;
	const x = max(8, min(left, innerWidth - tip.offsetWidth - 8));
	const y = isLow ? top - tip.offsetHeight - 8 : bottom + 6;
	tip.style.transform = `translate(${x}px, ${y}px)`;
}

// ---- Hovering and clicking

let pointer, explained;
function frame(el, n) {
	el.hidden = !n;
	if (n) Object.assign(el.style, { transform: `translate(${n.x - 1}px, ${n.y - 1}px)`, width: n.w + 1 + 'px',
		height: n.h + 1 + 'px' });
}
function hover(to) {
	if (to === undefined) {
		if (explained) return;
		to = pointer;
	}
	pointer = to;
	explained = null;
	const target = to && place && !canvas.hidden && hitIn(place, to.x, to.y, drawing);
	frame($.ring, target?.n);
	frame($.enter, target?.enter !== target?.n && target.enter);
	tip.hidden = !target;
	if (!target) return;
	const { n } = target, names = [];
	for (let up = n; up !== place; up = up.up) if (up !== n) names.unshift(make('bdi', {}, up.text), ' › ');
	const list = [...fields.values()].filter(f => at(f, n) && !f.largest && !f.isHidden
		&& at(f, n) === at(f, n));
	list.sort((a, b) => b.bytes - a.bytes || at(b, n) - at(a, n));
	tip.replaceChildren(make('p', {}, make('b', {}, make('bdi', {}, n.full))), make('p', { className: 'muted' },
		...names, n.kids.length ? n.level === 'comm' ? 'command' : n.level : KINDS[n.kind]), ...layer
		? aboutCharged(n) : [], fieldsOf(n, list));
	placeTip(n);
}
// Places the tooltip beside a node, or below or above it. If there is no room for this, places the tooltip in
// the corner that is farthest from the pointer.
function placeTip(n) {
	const box = canvas.getBoundingClientRect(), w = tip.offsetWidth, h = tip.offsetHeight,
		left = box.left + n.x, top = box.top + n.y;
	const inX = x => max(8, min(x, innerWidth - w - 8)), inY = y => max(8, min(y, innerHeight - h - 8));
	const spots = [[left + n.w + 8, inY(top)], [left - w - 8, inY(top)], [inX(left), top + n.h + 8],
		[inX(left), top - h - 8]];
	const fits = ([x, y]) => x >= 4 && y >= 4 && x + w <= innerWidth - 4 && y + h <= innerHeight - 4;
	const far = [pointer.left > innerWidth / 2 ? 8 : innerWidth - w - 8, inY(pointer.top > innerHeight / 2
		? 8 : innerHeight)];
	const [x, y] = spots.find(fits) || far;
	tip.style.transform = `translate(${x}px, ${y}px)`;
}
canvas.onpointermove = e => { if (e.pointerType !== 'touch') hover({ x: e.offsetX, y: e.offsetY,
	left: e.clientX, top: e.clientY }); };
canvas.onpointerleave = () => hover(null);
canvas.onclick = e => {
	const to = place && hitIn(place, e.offsetX, e.offsetY, drawing);
	hover(null);
	if (to) location.hash = hrefOf(entered(to.enter));
};
