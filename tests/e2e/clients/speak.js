// Speaks to the broker with fhir-kit-client: node speak.js BASE MESSAGE_FILE DESTINATION; prints what it heard as JSON.
'use strict';

const fs = require('fs');
const Client = require('fhir-kit-client');

async function main() {
  const [base, file, destination] = process.argv.slice(2);
  const client = new Client({ baseUrl: base });
  const statement = await client.capabilityStatement();
  const answer = await client.operation({ name: 'process-message', input: JSON.parse(fs.readFileSync(file, 'utf8')) });
  const searchParams = { 'message.destination-uri': destination, _offset: '0', _count: '1' };
  const page = await client.search({ resourceType: 'Bundle', searchParams });
  const next = await client.nextPage({ bundle: page });
  let refused = null;
  try {
    await client.operation({ name: 'process-message', input: { resourceType: 'Patient' } });
  } catch (error) {
    refused = { status: error.response.status, outcome: error.response.data };
  }
  process.stdout.write(JSON.stringify({ statement, answer, page, next, refused }));
}

main().catch((error) => {
  process.stderr.write(`${error.stack || error}\n`);
  process.exit(1);
});
