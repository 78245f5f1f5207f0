// Usage: parts.js MIB. Fills the heap with arrays of numbers, prints the heap statistics and then "ready",
// and waits.
'use strict';

const kept = [];
for (let i = 0; i < process.argv[2] << 10; i++) kept.push(Array.from({ length: 120 }, (_, j) => j + .5));
console.log(JSON.stringify(require('v8').getHeapStatistics()));
console.log('ready');
setInterval(() => kept.length, 1e9);
