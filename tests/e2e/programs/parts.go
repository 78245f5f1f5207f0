// Usage: parts MIB. Fills the heap with objects of 4 KiB, prints some fields of runtime.MemStats and then
// "ready", and waits.
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

var kept [][]byte

func main() {
	debug.SetGCPercent(-1) // the heap never shrinks
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	for i := 0; i < n<<8; i++ {
		object := make([]byte, 4096)
		for j := range object {
			object[j] = 1
		}
		kept = append(kept, object)
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	text, err := json.Marshal(map[string]uint64{
		"HeapInuse": stats.HeapInuse, "StackInuse": stats.StackInuse,
		"HeapSys": stats.HeapSys, "StackSys": stats.StackSys, "HeapReleased": stats.HeapReleased,
	})
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(text, "\nready\n"...))
	for {
		time.Sleep(time.Hour) // with an empty select, Go would report a deadlock
	}
}
