"""Notifications as Postfix writes them, about a mail of ours."""

from __future__ import annotations

from email_desk import MESSAGE_ID

from plugins.email.address import message_id_of

ADDRESS = "mailto:lab@south.example"
NAMED = message_id_of(MESSAGE_ID, ADDRESS, "north.example")
POSTFIX = """\
From: MAILER-DAEMON@relay.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
	boundary="BC59F20EBE4.1763731434/relay.example"

This is a MIME-encapsulated message.

--BC59F20EBE4.1763731434/relay.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--BC59F20EBE4.1763731434/relay.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.example
Original-Envelope-Id: {envid}
X-Postfix-Queue-ID: BC59F20EBE4

Final-Recipient: rfc822; {final}
Original-Recipient: rfc822;{original}
Action: {action}
Status: {status}
Remote-MTA: dns; mail.south.example
Diagnostic-Code: smtp; 550 5.1.1 <lab@south.example>: no such
    user here

--BC59F20EBE4.1763731434/relay.example
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

From: fhir@north.example
Message-ID: {named}
Subject: FHIR message

--BC59F20EBE4.1763731434/relay.example--
"""


def notification(**changes: str) -> bytes:
    values = {
        "envid": MESSAGE_ID,
        "final": "lab@south.example",
        "original": "lab@south.example",
        "action": "failed",
        "status": "5.1.1",
        "named": NAMED,
        **changes,
    }
    return POSTFIX.format(**values).replace("\n", "\r\n").encode()
