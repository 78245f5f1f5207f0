// Usage: Parts THREADS MIB. Starts threads that wait, allocates MIB MiB of direct buffers, prints "ready" and
// waits.
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;

public class Parts {
	static final List<ByteBuffer> BUFFERS = new ArrayList<>();

	public static void main(String[] args) throws Exception {
		int threads = Integer.parseInt(args[0]);
		CountDownLatch started = new CountDownLatch(threads), forever = new CountDownLatch(1);
		for (int i = 0; i < threads; i++) {
			new Thread(() -> {
				started.countDown();
				try {
					forever.await();
				} catch (InterruptedException e) {
					throw new IllegalStateException(e);
				}
			}).start();
		}
		started.await();
		for (int i = 0; i < Integer.parseInt(args[1]); i++) {
			BUFFERS.add(ByteBuffer.allocateDirect(1 << 20)); // the buffer is filled with zeros, so it is resident
		}
		System.out.println("ready");
		forever.await();
	}
}
