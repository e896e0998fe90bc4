package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// images are files of a directory: NAME.img is a disk, NAME.json says what it was made for. Names are derived from what
// the request calls the volume or snapshot, so a repeated request finds what the first one made.
//
// One call at a time: the lock is held by every exported operation of the driver that touches an image.
type images struct {
	sync.Mutex
	directory string
}

// record is what is known of an image besides its bytes.
type record struct {
	Name   string // as the request says
	Bytes  int64  // size of the disk
	Source string // id of the image that it is a copy of, or ""
}

var errOther = errors.New("exists with other properties")

func openImages(directory string) (*images, error) {
	return &images{directory: directory}, os.MkdirAll(directory, 0o700)
}

// id of what a request names: hex, so that it is safe as a file name.
func id(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + hex.EncodeToString(sum[:10])
}

// path of an image. Ids come back from the outside: one that is no plain name finds nothing.
func (s *images) path(id string) string { return filepath.Join(s.directory, filepath.Base(id)+".img") }

func (s *images) recordPath(id string) string {
	return strings.TrimSuffix(s.path(id), ".img") + ".json"
}

// find returns the record of an image, or an error that is os.ErrNotExist.
func (s *images) find(id string) (record, error) {
	var found record
	text, err := os.ReadFile(s.recordPath(id))
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	return found, err
}

// make creates an image, empty (sparse) or as a copy of `wanted.Source`, and then its record: without one it does not exist.
// A copy may be larger than its original, never smaller.
func (s *images) make(id string, wanted record) error {
	if found, err := s.find(id); err == nil {
		if found.Source != wanted.Source || found.Bytes < wanted.Bytes {
			return errOther
		}
		return nil
	}
	os.Remove(s.path(id))
	if wanted.Source != "" {
		copied := func() error {
			return command("cp", "--sparse=always", "--reflink=auto", s.path(wanted.Source), s.path(id))
		}
		if err := s.quiet(wanted.Source, copied); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(s.path(id), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(wanted.Bytes); err != nil {
		return err
	}
	text, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	return os.WriteFile(s.recordPath(id), text, 0o600)
}

// remove an image; what is absent already is success.
func (s *images) remove(id string) error {
	if err := s.detach(id); err != nil {
		return err
	}
	return errors.Join(unlessAbsent(os.Remove(s.recordPath(id))), unlessAbsent(os.Remove(s.path(id))))
}

func unlessAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// device of an image that is attached, or "".
func (s *images) device(id string) (string, error) {
	out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", s.path(id)).Output()
	name, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return name, err
}

// attach gives an image a loop device, or finds the one it has.
func (s *images) attach(id string) (string, error) {
	if device, err := s.device(id); err != nil || device != "" {
		return device, err
	}
	out, err := exec.Command("losetup", "--find", "--show", s.path(id)).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("losetup: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *images) detach(id string) error {
	device, err := s.device(id)
	if err != nil || device == "" {
		return err
	}
	return command("losetup", "--detach", device)
}

// quiet runs `do` while the image's file system is frozen, or while its raw device has been flushed. Who froze it before
// thaws it himself.
func (s *images) quiet(id string, do func() error) error {
	device, err := s.device(id)
	if err != nil {
		return err
	}
	if device == "" {
		return do()
	}
	mounted, _ := exec.Command("findmnt", "--noheadings", "--first-only", "--output", "TARGET", "--source", device).Output()
	if len(mounted) == 0 {
		if err := flush(device); err != nil {
			return err
		}
		return do()
	}
	root, err := os.Open(strings.TrimSpace(string(mounted)))
	if err != nil {
		return err
	}
	defer root.Close()
	const freeze, thaw = 0xc0045877, 0xc0045878 // FIFREEZE and FITHAW of linux/fs.h
	switch err := unix.IoctlSetInt(int(root.Fd()), freeze, 0); {
	case err == nil:
		defer unix.IoctlSetInt(int(root.Fd()), thaw, 0)
	case !errors.Is(err, unix.EBUSY):
		return fmt.Errorf("freeze %s: %w", root.Name(), err)
	}
	return do()
}

func flush(device string) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}

// command runs a program; its error carries what the program said.
func command(name string, arguments ...string) error {
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, out)
	}
	return nil
}
