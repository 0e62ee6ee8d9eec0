// login_cases.js FILE: as login_cases.py, with kafkajs. NODE_PATH names the folder that has it.
const fs = require('fs')
const { Kafka, logLevel } = require('kafkajs')

const PATIENCE_MS = 40_000
// Below PATIENCE_MS. By itself kafkajs gives up a connection after a second, which a busy machine needs for the TLS
// handshakes of all clients that run at a time.
const CONNECTION_MS = 15_000
const AT_A_TIME = 16
const cases = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))

function settings(one) {
  const read = (path) => path && fs.readFileSync(path, 'utf8')
  const mechanism = one.mechanism && one.mechanism.toLowerCase()
  const login = mechanism === 'oauthbearer'
    ? { mechanism, oauthBearerProvider: async () => ({ value: one.password }) }
    : { mechanism, username: one.user, password: one.password }
  return {
    brokers: [one.bootstrap],
    ssl: { ca: [read(one.ca)], cert: read(one.certificate), key: read(one.key) },
    sasl: mechanism && login,
    connectionTimeout: CONNECTION_MS,
    retry: { retries: 3 },
    logLevel: logLevel.NOTHING,
  }
}

async function roundTrip(one) {
  const kafka = new Kafka(settings(one))
  const producer = kafka.producer()
  try {
    await producer.connect()
    await producer.send({ topic: one.topic, acks: -1, messages: [{ partition: 0, value: one.id }] })
  } finally {
    await producer.disconnect()
  }
  const consumer = kafka.consumer({ groupId: `kafkajs-${one.id}` })
  await consumer.connect()
  await consumer.subscribe({ topic: one.topic, fromBeginning: true })
  await new Promise((found, failed) => {
    const eachMessage = async ({ message }) => { if (message.value.toString() === one.id) found() }
    consumer.run({ eachMessage }).catch(failed)
  })
  await consumer.disconnect()
}

// The name of the error, and of what TLS said where the library wraps that in one of its own. Which alert a broker
// sends depends on its TLS library.
function name(error) {
  const code = [error, error.cause, error.originalError].map((e) => e && e.code).find((code) => code)
  const tls = /ALERT/.test(code) ? 'TLS alert' : code
  const type = error.cause ? error.cause.name : error.name
  return [type, error.type || tls].filter((part) => part).join(' ')
}

async function outcome(one) {
  const late = new Promise((done) => setTimeout(done, PATIENCE_MS, 'hang').unref())
  return Promise.race([late, roundTrip(one).then(() => 'ok', name)])
}

async function worker() {
  for (let one = cases.shift(); one; one = cases.shift()) {
    console.log(`${one.id}\t${await outcome(one)}`)
  }
}

Promise.all(Array.from({ length: AT_A_TIME }, worker)).then(() => process.exit(0))
