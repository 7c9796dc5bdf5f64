/**
 * Writes protocol buffers, as far as an ONNX model needs them: varints, 32-bit floats, strings,
 * nested messages. Write-only and without a schema; field numbers stand where they are used.
 */

const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;

const encoder = new TextEncoder();

export class ProtobufWriter {
  #bytes = new Uint8Array(1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** A signed 64-bit integer within the safe range of a number. */
  int(field: number, value: number): void {
    this.#varint(field * 8 + VARINT);
    this.#varint(value);
  }

  float(field: number, value: number): void {
    this.#varint(field * 8 + FIXED_32);
    this.#reserve(4);
    this.#view.setFloat32(this.#length, value, true);
    this.#length += 4;
  }

  string(field: number, value: string): void {
    this.bytes(field, encoder.encode(value));
  }

  bytes(field: number, value: Uint8Array): void {
    this.#varint(field * 8 + LENGTH_DELIMITED);
    this.#varint(value.length);
    this.#reserve(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
  }

  message(field: number, write: (inner: ProtobufWriter) => void): void {
    const inner = new ProtobufWriter();
    write(inner);
    this.bytes(field, inner.finish());
  }

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #varint(value: number): void {
    this.#reserve(10);
    if (value >= 0 && value <= 0x7fffffff) {
      let small = value;
      for (; small > 0x7f; small >>>= 7) this.#bytes[this.#length++] = (small & 0x7f) | 0x80;
      this.#bytes[this.#length++] = small;
      return;
    }
    // Negative numbers are ten bytes of two's complement.
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest > 0x7fn) {
      this.#bytes[this.#length++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    this.#bytes[this.#length++] = Number(rest);
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + count));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }
}
