// Speaks CloudEvents with their own SDK: node events.js send URL < events, node events.js read < requests; prints JSON.
'use strict';

const fs = require('fs');
const { CloudEvent, HTTP } = require('cloudevents');

// The SDK makes of `data_base64` an array with a place of four bytes for each byte.
const plain = (value) => (ArrayBuffer.isView(value) ? { base64: Buffer.from(Array.from(value)).toString('base64') } : value);
const shown = (event) => ({ ...event.toJSON(), data: event.data === undefined ? undefined : plain(event.data) });

function made(attributes) {
  const { bytes, ...rest } = attributes;
  return new CloudEvent(bytes === undefined ? rest : { ...rest, data: new Uint8Array(Buffer.from(bytes, 'base64')) });
}

async function post(url, message) {
  const answer = await fetch(url, { method: 'POST', headers: message.headers, body: message.body });
  return { status: answer.status, body: await answer.text() };
}

async function send(url, given) {
  const said = [];
  for (const [mode, events] of given) {
    if (mode === 'batch') {
      const body = `[${events.map((one) => HTTP.structured(made(one)).body).join(',')}]`;
      said.push(await post(url, { headers: { 'content-type': 'application/cloudevents-batch+json' }, body }));
    } else {
      for (const one of events) said.push(await post(url, HTTP[mode](made(one))));
    }
  }
  return said;
}

function read(requests) {
  return requests.map(({ headers, body }) => {
    const bytes = Buffer.from(body, 'base64');
    const isText = /json|text|xml/.test(headers['content-type']);
    const found = HTTP.toEvent({ headers, body: isText ? bytes.toString('utf8') : bytes });
    return (Array.isArray(found) ? found : [found]).map((event) => (event.validate(), shown(event)));
  });
}

async function main() {
  const given = JSON.parse(fs.readFileSync(0, 'utf8'));
  const [what, url] = process.argv.slice(2);
  process.stdout.write(JSON.stringify(what === 'send' ? await send(url, given) : read(given)));
}

main().catch((error) => {
  process.stderr.write(`${error.stack || error}\n${JSON.stringify(error.errors || '')}\n`);
  process.exit(1);
});
