// Judge answers questions about signed notes and proofs by the packages that Go's own checksum
// database and its witnesses use.
//
// It reads one JSON object a line and writes one a line: {} where all is well, and else {"error"}.
// A note that opens is answered with the names of the keys whose signatures are right.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"

	cosigned "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A question has one of its members. Hashes are in base64.
type question struct {
	Open *struct {
		Note string
		Keys []string // verifier keys, of logs and of witnesses
	}
	Inclusion *struct {
		Proof       tlog.RecordProof
		Index, Size int64
		Leaf, Root  tlog.Hash
	}
	Consistency *struct {
		Proof            tlog.TreeProof
		Old, New         int64
		OldRoot, NewRoot tlog.Hash
	}
}

type answer struct {
	Signed []string `json:"signed,omitempty"`
	Error  string   `json:"error,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			log.Fatal(err)
		}
		signed, err := judge(q)
		a := answer{Signed: signed}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}

func judge(q question) ([]string, error) {
	switch {
	case q.Open != nil:
		return open(q.Open.Note, q.Open.Keys)
	case q.Inclusion != nil:
		p := q.Inclusion
		return nil, tlog.CheckRecord(p.Proof, p.Size, p.Root, p.Index, p.Leaf)
	case q.Consistency != nil:
		p := q.Consistency
		return nil, tlog.CheckTree(p.Proof, p.New, p.NewRoot, p.Old, p.OldRoot)
	}
	return nil, fmt.Errorf("nothing is asked")
}

func open(text string, keys []string) ([]string, error) {
	var verifiers []note.Verifier
	for _, key := range keys {
		verifier, err := cosigned.NewVerifier(key)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifiers...))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, signature := range opened.Sigs {
		names = append(names, signature.Name)
	}
	return names, nil
}
