//! Protobuf without a schema: the fields of a message are passed over where they lie, and a codec for tonic that does nothing else.
//!
//! A general decoder makes a structure of 200 bytes of every task, also of one that took two bytes to send.

use bytes::{Buf, BufMut};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The fields of a protobuf message, in the order in which they come. Ends after the first that makes no sense.
pub struct Fields<'a>(pub &'a [u8]);

/// A field's value.
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that no wanted field has.
    Other,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or("no protobuf message");
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length.try_into().ok()?)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None, // groups: older than proto3
        };
        Some((key >> 3, value))
    }

    /// A varint: seven bits a byte, the lowest first, ten bytes at most.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The longest string taken. containerd takes no id of more than 76 bytes, Kubernetes no name of more than 253.
const MAX_STRING: usize = 4096;

/// A string that is kept.
///
/// Fails with the reason, which calls it `what`.
pub fn text(what: &str, bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > MAX_STRING {
        return Err(format!("{what} of {} bytes", bytes.len()));
    }
    Ok(str::from_utf8(bytes).map_err(|_| format!("{what} that is not UTF-8"))?.into())
}

/// Sends bytes as they are, and decodes the answer by a function.
#[derive(Debug)]
pub struct ByHand<T>(pub fn(&[u8]) -> Result<T, String>);

impl<T: Send + 'static> Codec for ByHand<T> {
    type Encode = Vec<u8>;
    type Decode = T;
    type Encoder = AsIs;
    type Decoder = Self;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> Self {
        Self(self.0)
    }
}

impl<T> Decoder for ByHand<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let answer = (self.0)(message.chunk()); // tonic holds a message in one piece
        message.advance(message.remaining());
        answer.map(Some).map_err(|why| Status::internal(format!("its answer is refused: {why}")))
    }
}

/// The encoder of [`ByHand`].
#[derive(Debug)]
pub struct AsIs;

impl Encoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    /// A field of bytes.
    pub fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        let mut message = vec![field << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(value);
        message
    }

    /// A field that is a number of one byte.
    pub fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }
}
